"""The seam between fine-tuning and a task: what a task brings to a training run."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from transformers import PreTrainedModel

from ptune.config.recipe import Recipe
from ptune.formats.bundle import BaseIdentity, Hop
from ptune.formats.run import Run
from ptune.training.objective import Objective


@dataclass(frozen=True)
class Base:
    """A pretrained model that nothing has been trained of yet."""

    model: PreTrainedModel
    identity: BaseIdentity  # of what was pretrained: without a fresh head and without rows of new tokens
    new_tokens: tuple[int, ...] = ()  # ids of those that the recipe adds
    head: tuple[
        str, ...
    ] = ()  # modules that are not pretrained, by name: every method trains and saves them whole


class TaskData(Protocol):
    """What a run is trained on."""

    @property
    def train(self) -> Sequence[Any]:
        """Examples, as the objective takes them."""

    @property
    def validation(self) -> Sequence[Any]:
        """Likewise."""

    @property
    def parts(self) -> tuple[int, ...]:
        """How many of the training examples come from each of the recipe's files, in that order."""

    @property
    def summary(self) -> dict[str, Any]:
        """data.json: `files` with their SHA-256, and of each split the SHA-256 of its examples."""


class Work(Protocol):
    """One run's task: its data has been read and examined, and its recipe fits into memory."""

    @property
    def recipe(self) -> Recipe:
        """The recipe to train, as the plan may have changed it."""

    @property
    def data(self) -> TaskData:
        """The examples, and where they are from."""

    def load(self, device: torch.device) -> Base:
        """Reads the pretrained weights."""

    def objective(self, base: PreTrainedModel, device: torch.device) -> AbstractContextManager[Objective]:
        """What is trained for; inside, `base` is set up for it."""

    def save_codec(self, folder: Path) -> None:
        """Writes what turns input into the model's tensors, as the run folder has it."""

    def save(self, run: Run, model: nn.Module, identity: BaseIdentity, *, writes: bool) -> Hop:
        """Writes adapter/ or model/ and returns the hop from memory to disk, over held-out examples.

        Where the model is sharded, every process calls it and the one that `writes` writes.
        """
