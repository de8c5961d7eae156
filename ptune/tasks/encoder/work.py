"""The base of runs that score sequences of tokens with a head: classifiers, taggers, rerankers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from ptune.backbone.classifier import load_classifier, plain_tokenizer
from ptune.codecs.sequence import SequenceCodec
from ptune.config.recipe import Recipe
from ptune.data.examples.sequences import SequenceData, SequenceExample
from ptune.errors import RecipeError
from ptune.formats.bundle import BaseIdentity, Hop
from ptune.formats.run import Run
from ptune.tasks.encoder.facts import Facts
from ptune.tasks.encoder.saving import reloaded_hop, write_trained
from ptune.tasks.encoder.train import Loss, SequenceObjective
from ptune.training.checkpoint import whole_state
from ptune.training.distributed import sharded
from ptune.training.work import Base


@dataclass
class SequenceWork:
    """See `ptune.training.work.Work`. Subclasses define the task's name, what gets a label, and the loss."""

    recipe: Recipe
    codec: SequenceCodec
    data: SequenceData
    head: tuple[str, ...] = ()  # modules that belong to the task, once the model is loaded

    @property
    def name(self) -> str:
        """The task's name in bundles."""
        raise NotImplementedError

    @property
    def kind(self) -> Literal["text", "tokens"]:
        """What is labelled: a text or a token."""
        return "text"

    @property
    def step_separator(self) -> str | None:
        """What follows each step, where steps are judged."""
        return None

    @property
    def max_length(self) -> int | None:
        """Longest sequence in tokens, from the recipe."""
        raise NotImplementedError

    def loss(self, device: torch.device) -> Loss:
        """The loss function."""
        return Loss(self.data.labels)

    def load(self, device: torch.device) -> Base:
        seed, labels = self.recipe.train.seed, self.data.labels
        loaded = load_classifier(self.recipe.backbone, self.kind, labels, seed=seed, device=device)
        self.head = loaded.head
        if labels.problem == "tags":
            # Most words are O. A head that has yet to learn that makes the body say it first, at the cost of the words.
            tags = (example.target for example in self.data.train)
            loaded.start_at(self.loss(device).shares(target for target in tags if isinstance(target, tuple)))
        return Base(loaded.model, loaded.identity, head=loaded.head)

    @contextlib.contextmanager
    def objective(self, base: PreTrainedModel, device: torch.device) -> Iterator[SequenceObjective]:
        yield self._objective(device)

    def save_codec(self, folder: Path) -> None:
        self.codec.save(folder)

    def save(self, run: Run, model: nn.Module, identity: BaseIdentity, *, writes: bool) -> Hop:
        state = whole_state(model) if sharded(model) else None
        labels = self.data.labels
        if writes:
            facts = Facts(
                task=self.name,
                base=identity.hash,
                quantize=identity.quantize,
                labels=labels.names,
                problem=labels.problem,
                head=self.head,
                step_separator=self.step_separator,
                max_length=self.codec.limit(self.max_length),
            )
            tokenizer = plain_tokenizer(self.codec, self.max_length)
            write_trained(run, self.recipe, model, facts, identity, state, tokenizer.save_pretrained)
        if sharded(model):
            torch.distributed.barrier()  # nobody reads before it is written
        objective = self._objective(next(model.parameters()).device)

        @torch.no_grad()
        def logits(one: nn.Module, example: SequenceExample) -> torch.Tensor:
            (batch,) = objective.batches([example])
            return objective.logits(one, batch)

        held = self.data.splits["test"].examples or self.data.validation or self.data.train
        return reloaded_hop(model, run, lambda: self._again(run, identity), logits, held, labels.problem)

    def _objective(self, device: torch.device) -> SequenceObjective:
        most = self.recipe.train.micro_batch_tokens
        return SequenceObjective(self.loss(device), most, device, self.codec.pad_id, self.codec.type_ids)

    def _again(self, run: Run, identity: BaseIdentity) -> nn.Module:
        """The model read back from model/."""
        saved = self.recipe.backbone.saved_at(run.model_path).model_copy(update={"dtype": identity.dtype})
        return load_classifier(saved, self.kind, self.data.labels).model


def check_backbone(recipe: Recipe) -> None:
    """Raises: RecipeError for options of the backbone that only causal models have."""
    if recipe.backbone.quantize != "none":
        raise RecipeError(
            f"backbone.quantize {recipe.backbone.quantize!r} is for chat: an encoder's backbone stays as it is"
        )
    if recipe.backbone.new_tokens:
        raise RecipeError("backbone.new_tokens is for chat: an encoder keeps its backbone's tokens")
