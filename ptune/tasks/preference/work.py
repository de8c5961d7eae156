"""A preference run: a chat run whose examples are pairs of answers."""

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

from ptune.config.preference import Preference
from ptune.config.recipe import Recipe
from ptune.data.examples.dataset import Dataset
from ptune.data.shapes.preferences import Pairs
from ptune.formats.run import Run
from ptune.tasks.chat.work import OverChat
from ptune.tasks.chat.work import prepare as prepare_chat
from ptune.tasks.preference.objective import PreferenceObjective, Reference
from ptune.tasks.preference.reference import log_probabilities, refuse_sharded
from ptune.training.distributed import decided_by_one
from ptune.training.layers.adapter_off import without_adapter


@dataclass(frozen=True)
class PairData:
    """See `ptune.training.work.TaskData`; its examples are pairs."""

    made: Dataset

    @property
    def train(self) -> Pairs:
        return Pairs(self.made.train, "train")

    @property
    def validation(self) -> Pairs:
        return Pairs(self.made.validation, "validation")

    @property
    def parts(self) -> tuple[int, ...]:
        return tuple(examples // 2 for examples in self.made.parts)

    @property
    def summary(self) -> dict[str, Any]:
        return self.made.summary


@dataclass(frozen=True)
class PreferenceWork(OverChat):
    """See `ptune.training.work.Work`."""

    accelerator: Accelerator

    @property
    def data(self) -> PairData:
        return PairData(self.chat.data)

    @contextlib.contextmanager
    def objective(self, base: PreTrainedModel, device: torch.device) -> Iterator[PreferenceObjective]:
        task = self.recipe.task
        assert isinstance(task, Preference)
        with self.chat.objective(base, device) as next_token:
            objective = PreferenceObjective(task, next_token)
            reference = self._reference(objective, base) if task.facts.reference else {}
            yield PreferenceObjective(task, next_token, reference)

    def _reference(self, objective: PreferenceObjective, base: PreTrainedModel) -> Reference:
        """Of all pairs, before a checkpoint is read: what is trained does not change the model yet. One process computes it."""

        def compute() -> dict[str, NDArray[np.float64]]:
            with without_adapter(base):
                return {
                    pairs.split: log_probabilities(f"reference, {pairs.split}", objective, base, pairs)
                    for pairs in (self.data.train, self.data.validation)
                }

        return decided_by_one(self.accelerator, compute)


def prepare(recipe: Recipe, run: Run, accelerator: Accelerator, command: str) -> PreferenceWork:
    """As `ptune.tasks.chat.work.prepare`.

    Raises: RecipeError also for weights that are sharded, where the loss has a reference: no process has a whole model.
    """
    assert isinstance(recipe.task, Preference)
    if recipe.task.facts.reference:
        refuse_sharded(accelerator, recipe.task.loss, "choose orpo, simpo or cpo, or train without FSDP")
    return PreferenceWork(prepare_chat(recipe, run, accelerator, command), accelerator)
