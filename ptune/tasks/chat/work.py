"""A chat run: reads, examines and encodes conversations, and plans memory. The loss is on the answers' tokens."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from transformers import PreTrainedModel

from ptune.backbone.image_rows import show
from ptune.backbone.load import load, load_codec
from ptune.codecs.chat import ChatCodec
from ptune.config.on_policy_distillation import OnPolicyDistillation
from ptune.config.preference import Preference
from ptune.config.recipe import Recipe
from ptune.data.examples import dataset
from ptune.data.examples.dataset import Dataset
from ptune.data.examples.store import Examples
from ptune.data.shapes.preferences import Pairs
from ptune.doctor.command_line import doctor_command
from ptune.doctor.doctor import Doctor, judge
from ptune.errors import BackboneError
from ptune.formats.bundle import BaseIdentity, Hop
from ptune.formats.run import Run
from ptune.formats.whole_write import read_json
from ptune.methods.peft_method import PeftMethod
from ptune.planning.exportable import check_exportable
from ptune.planning.preflight import planned
from ptune.progress import say
from ptune.tasks.chat.images import check_recipe
from ptune.tasks.chat.recipe_codec import codec_for
from ptune.tasks.chat.samples import ChatAnswering, answering
from ptune.tasks.chat.saving import save_trained
from ptune.training.distributed import decided_by_one
from ptune.training.journal.samples import Asked
from ptune.training.loss.head import plain_head
from ptune.training.loss.next_token import NextTokenObjective
from ptune.training.rows.segments import packing
from ptune.training.work import Base


@dataclass(frozen=True)
class ChatWork:
    """See `ptune.training.work.Work`."""

    recipe: Recipe
    codec: ChatCodec  # with the recipe's own template and system message
    plain_codec: ChatCodec  # the backbone's
    data: Dataset

    def load(self, device: torch.device) -> Base:
        spec = self.recipe.backbone
        loaded = load(spec, device=device, codec=self.plain_codec, streamed=spec.stream)
        show(loaded.model, self.data.images, self.codec, loaded.identity.hash)
        return Base(loaded.model, loaded.identity, loaded.new_tokens)

    @contextlib.contextmanager
    def objective(self, base: PreTrainedModel, device: torch.device) -> Iterator[NextTokenObjective]:
        method, most = self.recipe.method, self.recipe.train.micro_batch_tokens
        loss = self.recipe.chat.label_smoothing, self.recipe.chat.loss_type == "dft"
        if isinstance(method, PeftMethod) and method.one_text:
            why = "stands before every text" if method.virtual_tokens else "acts from its invocation on"
            say(f"{type(method).__name__} {why}: one example per forward pass")
            yield NextTokenObjective(False, most, device, plain_head(base), *loss)
            return
        with packing(base, self.recipe.train.fast) as packed:
            if not packed:
                say(f"{type(base).__name__} cannot keep packed examples apart: one example per forward pass")
            yield NextTokenObjective(packed, most, device, plain_head(base), *loss)

    def answering(self, base: PreTrainedModel) -> ChatAnswering | None:
        prompts = (
            (Asked(one.question, one.answer), one.prompt(self.codec))
            for one in self.data.validation_conversations
        )
        return answering(self.recipe, self.codec, prompts, base)

    def save_codec(self, folder: Path) -> None:
        self.codec.save(folder)

    def save(self, run: Run, model: nn.Module, identity: BaseIdentity, *, writes: bool) -> Hop:
        held_out = self.data.test or self.data.validation or self.data.train
        return save_trained(run, self.recipe, model, self.codec, held_out, identity, writes=writes)


@dataclass(frozen=True)
class OverChat:
    """What tasks on other data do as chat does it. See `ptune.training.work.Work`."""

    chat: ChatWork

    @property
    def recipe(self) -> Recipe:
        return self.chat.recipe

    def load(self, device: torch.device) -> Base:
        return self.chat.load(device)

    def answering(self, base: PreTrainedModel) -> ChatAnswering | None:
        return self.chat.answering(base)

    def save_codec(self, folder: Path) -> None:
        self.chat.save_codec(folder)

    def save(self, run: Run, model: nn.Module, identity: BaseIdentity, *, writes: bool) -> Hop:
        return self.chat.save(run, model, identity, writes=writes)


def prepare(recipe: Recipe, run: Run, accelerator: Accelerator, command: str) -> ChatWork:
    """Prepares the run up to reading the weights. Raises: DataError, RecipeError, BackboneError."""
    plain_codec = load_codec(recipe.backbone)
    _warn_of_export(recipe)
    codec = codec_for(recipe.chat, plain_codec)
    check_recipe(recipe, codec)
    data = _examined(recipe, codec, run, accelerator, command)
    if not run.record_path.is_file():
        original, recipe = recipe, _planned(recipe, data, accelerator)
        data = data if recipe.task == original.task else _examined(recipe, codec, run, accelerator, command)
    return ChatWork(recipe, codec, plain_codec, data)


def _warn_of_export(recipe: Recipe) -> None:
    """Says of a model that can be trained only, before hours go into it, that it cannot be exported."""
    try:
        check_exportable(recipe.backbone)
    except BackboneError as error:
        say(f"warning: {error} (it can be trained; `ptune merge` saves it for other servers)")


def _examined(recipe: Recipe, codec: ChatCodec, run: Run, accelerator: Accelerator, command: str) -> Dataset:
    """The recipe's data, with the doctor's findings in its summary; a resumed run was examined when it began.

    Raises: DataError if the data cannot be used, or would train a wrong model.
    """
    task, seed = recipe.chat, recipe.train.seed
    if run.record_path.is_file():
        data = dataset.load(recipe.data, task, codec, seed)
        return replace(
            data, summary={**data.summary, "findings": read_json(run.data_path).get("findings", [])}
        )
    examined: list[
        Dataset
    ] = []  # in the process that examines; where the set is large, its tokens stay for the others

    def examine() -> list[dict[str, Any]]:
        doctor = Doctor(task, codec)
        examined.append(dataset.load(recipe.data, task, codec, seed, examiner=doctor))
        findings = doctor.findings()
        judge(findings, doctor_command(command))
        return [finding.described() for finding in findings]

    found = decided_by_one(accelerator, examine)
    data = examined[0] if examined else dataset.load(recipe.data, task, codec, seed)
    return replace(data, summary={**data.summary, "findings": found})


def _planned(recipe: Recipe, data: Dataset, accelerator: Accelerator) -> Recipe:
    """The recipe to train, which fits into memory. One process decides for all.

    Raises: RecipeError if it does not fit.
    """
    several_on_cpu = accelerator.num_processes > 1 and accelerator.device.type == "cpu"
    if several_on_cpu or accelerator.distributed_type == DistributedType.FSDP:
        say("plan: skipped; memory is only predicted for one process, or one GPU per process")
        return recipe
    if data.images is not None:
        say("plan: skipped; the memory of a model that sees images cannot be predicted yet")
        return recipe
    if isinstance(recipe.method, PeftMethod) and (what := recipe.method.unforeseen):
        say(f"plan: skipped; the memory of {what} cannot be predicted")
        return recipe
    lengths, validation = (_lengths(recipe, split) for split in (data.train, data.validation))
    return decided_by_one(accelerator, lambda: planned(recipe, lengths, validation)[0])


def _lengths(recipe: Recipe, split: Examples) -> list[int]:
    """Tokens that share a row at least."""
    if isinstance(recipe.task, Preference):
        return Pairs(split, "").lengths
    lengths: list[int] = split.lengths.tolist()
    task = recipe.task
    if isinstance(task, OnPolicyDistillation) and task.lmbda:  # its own answers may be longer than the data's
        return [min(length + task.answer_tokens, max(length, task.max_length)) for length in lengths]
    return lengths
