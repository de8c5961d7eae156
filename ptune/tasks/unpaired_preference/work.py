"""A run on judged answers: a chat run whose examples have a verdict each."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from transformers import PreTrainedModel

from ptune.config.recipe import Recipe
from ptune.config.unpaired_preference import UnpairedPreference
from ptune.data.examples.dataset import Dataset
from ptune.data.examples.judged import JudgedExamples, judged_examples
from ptune.formats.run import Run
from ptune.tasks.chat.work import OverChat
from ptune.tasks.chat.work import prepare as prepare_chat
from ptune.tasks.preference.reference import refuse_sharded
from ptune.tasks.unpaired_preference.objective import Reference, UnpairedObjective
from ptune.tasks.unpaired_preference.reference import log_probabilities
from ptune.training.distributed import decided_by_one
from ptune.training.layers.adapter_off import without_adapter


@dataclass(frozen=True)
class JudgedData:
    """See `ptune.training.work.TaskData`."""

    made: Dataset
    train: JudgedExamples
    validation: JudgedExamples

    @property
    def parts(self) -> tuple[int, ...]:
        return self.made.parts

    @property
    def summary(self) -> dict[str, Any]:
        return self.made.summary


@dataclass(frozen=True)
class UnpairedWork(OverChat):
    """See `ptune.training.work.Work`."""

    data: JudgedData
    accelerator: Accelerator

    @contextlib.contextmanager
    def objective(self, base: PreTrainedModel, device: torch.device) -> Iterator[UnpairedObjective]:
        task = self.recipe.task
        assert isinstance(task, UnpairedPreference)
        with self.chat.objective(base, device) as next_token:
            reference = self._reference(UnpairedObjective(task, next_token), base)
            yield UnpairedObjective(task, next_token, reference)

    def _reference(self, objective: UnpairedObjective, base: PreTrainedModel) -> Reference:
        """Of all answers, before a checkpoint is read: what is trained does not change the model yet. One process computes it."""

        def compute() -> dict[str, NDArray[np.float64]]:
            with without_adapter(base):
                return {
                    answers.split: log_probabilities(f"reference, {answers.split}", objective, base, answers)
                    for answers in (self.data.train, self.data.validation)
                }

        return decided_by_one(self.accelerator, compute)


def prepare(recipe: Recipe, run: Run, accelerator: Accelerator, command: str) -> UnpairedWork:
    """As `ptune.tasks.chat.work.prepare`. Raises: RecipeError also for weights that are sharded."""
    assert isinstance(recipe.task, UnpairedPreference)
    refuse_sharded(accelerator, recipe.task.loss, "train without FSDP")
    chat = prepare_chat(recipe, run, accelerator, command)
    train, validation = (
        judged_examples(chat.data, split, chat.recipe.train.seed) for split in ("train", "validation")
    )
    return UnpairedWork(chat, JudgedData(chat.data, train, validation), accelerator)
