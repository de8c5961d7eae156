"""A run of translation on an encoder-decoder: pairs are read and encoded; the loss is at the target's tokens."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from ptune.backbone.classifier import plain_tokenizer
from ptune.backbone.seq2seq import load_seq2seq, load_seq2seq_codec
from ptune.codecs.seq2seq import Seq2SeqCodec
from ptune.config.recipe import Recipe
from ptune.config.translation import Translation
from ptune.data.examples.seq2seq import Seq2SeqData, Seq2SeqExample, load_pairs
from ptune.doctor.command_line import doctor_command
from ptune.doctor.doctor import judge
from ptune.doctor.seq2seq import examine_seq2seq
from ptune.errors import RecipeError
from ptune.formats.bundle import BaseIdentity, Hop
from ptune.formats.run import Run
from ptune.formats.whole_write import read_json
from ptune.tasks.encoder.saving import reloaded_hop, write_trained
from ptune.tasks.translation.facts import Seq2SeqFacts
from ptune.tasks.translation.seq2seq_samples import Translating, translating
from ptune.tasks.translation.seq2seq_train import Seq2SeqObjective
from ptune.training.checkpoint import whole_state
from ptune.training.distributed import decided_by_one, sharded
from ptune.training.loss.head import plain_head
from ptune.training.work import Base

_MOST_LOGITS = 2**20  # compared of a pair, when what was written is read back


@dataclass
class Seq2SeqWork:
    """See `ptune.training.work.Work`."""

    recipe: Recipe
    codec: Seq2SeqCodec
    data: Seq2SeqData

    def load(self, device: torch.device) -> Base:
        found = load_seq2seq(self.recipe.backbone, device=device)
        return Base(found.model, found.identity)

    @contextlib.contextmanager
    def objective(self, base: PreTrainedModel, device: torch.device) -> Iterator[Seq2SeqObjective]:
        yield self._objective(base, device, plain_head(base))

    def answering(self, base: PreTrainedModel) -> Translating | None:
        return translating(self.recipe, self.codec, self.data)

    def save_codec(self, folder: Path) -> None:
        self.codec.save(folder)

    def save(self, run: Run, model: nn.Module, identity: BaseIdentity, *, writes: bool) -> Hop:
        state = whole_state(model) if sharded(model) else None
        if writes:
            task = translation_of(self.recipe)
            facts = Seq2SeqFacts(
                base=identity.hash,
                system=task.system,
                max_length=self.codec.texts.limit(task.max_length),
                source=task.source,
                target=task.target,
                source_language=task.source_language,
                target_language=task.target_language,
            )
            tokenizer = plain_tokenizer(self.codec.texts, None)
            write_trained(run, self.recipe, model, facts, identity, state, tokenizer.save_pretrained)
        if sharded(model):
            torch.distributed.barrier()  # nobody reads before it is written
        device = next(model.parameters()).device

        @torch.no_grad()
        def logits(one: nn.Module, example: Seq2SeqExample) -> torch.Tensor:
            objective = self._objective(_base_of(one), device)
            (batch,) = objective.batches([example])
            found = objective.logits(one, batch)
            return found[: max(1, _MOST_LOGITS // found.shape[-1])]

        held = self.data.splits["test"].examples or self.data.validation or self.data.train
        return reloaded_hop(model, run, lambda: self._again(run, identity, device), logits, held, "single")

    def _objective(
        self, base: PreTrainedModel, device: torch.device, head: nn.Linear | None = None
    ) -> Seq2SeqObjective:
        most, smoothing = self.recipe.train.micro_batch_tokens, self.recipe.chat.label_smoothing
        return Seq2SeqObjective(
            self.codec.writing, self.codec.texts.pad_id, most, device, base, head, smoothing
        )

    def _again(self, run: Run, identity: BaseIdentity, device: torch.device) -> nn.Module:
        """What lies in model/, loaded afresh."""
        saved = self.recipe.backbone.saved_at(run.model_path).model_copy(update={"dtype": identity.dtype})
        return load_seq2seq(saved, device=device).model


def prepare(recipe: Recipe, run: Run, accelerator: Accelerator, command: str) -> Seq2SeqWork:
    """Everything that can be known before the weights are read. Raises: DataError, RecipeError, BackboneError."""
    task = translation_of(recipe)
    _check(recipe, task)
    codec = load_seq2seq_codec(recipe.backbone)
    if run.record_path.is_file():  # it was examined when it began
        findings = read_json(run.data_path).get("findings", [])
    else:
        findings = decided_by_one(accelerator, lambda: _examined(recipe, command))
    data = load_pairs(recipe.data, task, codec, recipe.train.seed)
    return Seq2SeqWork(recipe, codec, replace(data, summary={**data.summary, "findings": findings}))


def _examined(recipe: Recipe, command: str) -> list[dict[str, Any]]:
    """The doctor's findings. Raises: DataError where the data would train a wrong model."""
    findings = examine_seq2seq(recipe).findings
    judge(findings, doctor_command(command))
    return [finding.described() for finding in findings]


def translation_of(recipe: Recipe) -> Translation:
    """The task, where it is known to be translation."""
    assert isinstance(recipe.task, Translation)
    return recipe.task


def _check(recipe: Recipe, task: Translation) -> None:
    """Raises: RecipeError for what only a causal model can do."""
    named = recipe.backbone.model
    if recipe.backbone.quantize != "none":
        raise RecipeError(
            f"backbone.quantize {recipe.backbone.quantize!r}: {named} is an encoder-decoder, whose weights stay as they are"
        )
    if recipe.backbone.stream:
        raise RecipeError(f"backbone.stream: {named} is an encoder-decoder, whose layers stay in memory")
    if recipe.backbone.new_tokens:
        raise RecipeError(f"backbone.new_tokens: {named} is an encoder-decoder, which keeps its tokens")
    if task.template is not None:
        raise RecipeError(
            f"task.template: {named} is an encoder-decoder, which has no chat template; task.system is put before sources"
        )
    if task.on_overlong == "split":
        raise RecipeError(
            "task.on_overlong 'split': a source cannot be cut apart from its target; use drop or truncate"
        )


def _base_of(model: nn.Module) -> PreTrainedModel:
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    assert isinstance(base, PreTrainedModel)
    return base
