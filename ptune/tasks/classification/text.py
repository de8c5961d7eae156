"""A run that classifies texts or tags words: rows are read, examined and encoded; the head is trained with the body."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedModel

from ptune.backbone.classifier import load_classifier, load_sequence_codec, plain_tokenizer
from ptune.codecs.sequence import SequenceCodec
from ptune.data.label_splits import read_splits
from ptune.data.labelled import TextTask
from ptune.data.sequences import SequenceData, SequenceExample, encoded
from ptune.doctor.classification import judged
from ptune.doctor.doctor import doctor_command
from ptune.errors import RecipeError
from ptune.formats.bundle import BaseIdentity, Hop
from ptune.formats.run import Run
from ptune.formats.whole_write import read_json
from ptune.progress import say
from ptune.recipe import Recipe
from ptune.tasks.classification.facts import Facts
from ptune.tasks.classification.labels import Labels
from ptune.tasks.classification.saving import reloaded_hop, write_trained
from ptune.tasks.classification.spec import TextClassification, TokenClassification
from ptune.tasks.classification.train import Loss, SequenceObjective, balanced
from ptune.training.distributed import decided_by_one, sharded
from ptune.training.finish import whole_state
from ptune.training.work import Base


@dataclass
class TextWork:
    """See `ptune.training.work.Work`."""

    recipe: Recipe
    codec: SequenceCodec
    data: SequenceData
    head: tuple[str, ...] = ()  # modules that belong to the task, once the model is loaded

    @property
    def task(self) -> TextTask:
        return text_task(self.recipe)

    def load(self, device: torch.device) -> Base:
        found = load_classifier(
            self.recipe.backbone,
            kind_of(self.task),
            self.data.labels,
            seed=self.recipe.train.seed,
            device=device,
        )
        self.head = found.head
        return Base(found.model, found.identity, head=found.head)

    @contextlib.contextmanager
    def objective(self, base: PreTrainedModel, device: torch.device) -> Iterator[SequenceObjective]:
        yield self._objective(device)

    def save_codec(self, folder: Path) -> None:
        self.codec.save(folder)

    def save(self, run: Run, model: nn.Module, identity: BaseIdentity, *, writes: bool) -> Hop:
        state = whole_state(model) if sharded(model) else None
        if writes:
            facts = Facts(
                task=task_name(self.task),
                base=identity.hash,
                quantize=identity.quantize,
                labels=self.data.labels.names,
                problem=self.data.labels.problem,
                head=self.head,
                max_length=self.codec.limit(self.task.max_length),
            )
            tokenizer = plain_tokenizer(self.codec, self.task.max_length)
            write_trained(run, self.recipe, model, facts, identity, state, tokenizer.save_pretrained)
        if sharded(model):
            torch.distributed.barrier()  # nobody reads before it is written
        objective = self._objective(next(model.parameters()).device)

        @torch.no_grad()
        def logits(one: nn.Module, example: SequenceExample) -> torch.Tensor:
            (batch,) = objective.batches([example])
            return objective.logits(one, batch)

        splits = self.data.splits
        held = splits["test"].examples or self.data.validation or self.data.train
        return reloaded_hop(
            model, run, lambda: self._again(run, identity), logits, held, self.data.labels.problem
        )

    def _objective(self, device: torch.device) -> SequenceObjective:
        labels, task = self.data.labels, self.task
        weights = balanced(self.data.train, labels).to(device) if task.class_weights == "balanced" else None
        smoothing = task.label_smoothing if isinstance(task, TextClassification) else 0.0
        return SequenceObjective(
            Loss(labels, weights, smoothing),
            self.recipe.train.micro_batch_tokens,
            device,
            self.codec.pad_id,
            self.codec.type_ids,
        )

    def _again(self, run: Run, identity: BaseIdentity) -> nn.Module:
        """What lies in model/, loaded afresh."""
        saved = self.recipe.backbone.saved_at(run.model_path).model_copy(update={"dtype": identity.dtype})
        return load_classifier(saved, kind_of(self.task), self.data.labels).model


def prepare(recipe: Recipe, run: Run, accelerator: Accelerator, command: str) -> TextWork:
    """Everything that can be known before the weights are read. Raises: DataError, RecipeError, BackboneError."""
    task = text_task(recipe)
    check_backbone(recipe)
    codec = load_sequence_codec(recipe.backbone)
    splits = read_splits(recipe.data, task, recipe.train.seed)
    splits.check()
    data = encoded(splits, recipe.data, task, codec)
    check_options(task, data.labels)
    if run.record_path.is_file():  # it was examined when it began
        findings = read_json(run.data_path).get("findings", [])
    else:
        findings = decided_by_one(accelerator, lambda: judged(splits, data, task, doctor_command(command)))
    for name, split in data.splits.items():
        if split.examples:
            say(f"{name}: {len(split.examples)} rows")
    say(f"labels: {', '.join(data.labels.names)} ({data.labels.problem})")
    return TextWork(recipe, codec, replace(data, summary={**data.summary, "findings": findings}))


def text_task(recipe: Recipe) -> TextTask:
    """The task, where it is known to be one of texts or words."""
    assert isinstance(recipe.task, TextClassification | TokenClassification)
    return recipe.task


def kind_of(task: TextTask) -> Literal["text", "tokens"]:
    """What gets a label."""
    return "tokens" if isinstance(task, TokenClassification) else "text"


def task_name(task: TextTask) -> str:
    """The task as model hubs and bundles call it."""
    return "token-classification" if isinstance(task, TokenClassification) else "text-classification"


def check_backbone(recipe: Recipe) -> None:
    """Raises: RecipeError for what only chat can do with its backbone."""
    if recipe.backbone.quantize != "none":
        raise RecipeError(
            f"backbone.quantize {recipe.backbone.quantize!r} is for chat: a classifier's backbone stays as it is"
        )
    if recipe.backbone.new_tokens:
        raise RecipeError("backbone.new_tokens is for chat: a classifier keeps its backbone's tokens")


def check_options(task: TextTask, labels: Labels) -> None:
    """Raises: RecipeError for an option that would change nothing."""
    if labels.problem == "regression":
        asked = {
            "class_weights": task.class_weights != "none",
            "label_smoothing": bool(getattr(task, "label_smoothing", 0)),
        }
        for name in (name for name, set_so in asked.items() if set_so):
            raise RecipeError(f"task.{name} is for labels, and the label here is a number (regression)")
