"""The interface between fine-tuning and a task: what a task provides for a training run."""

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
    """A pretrained model before training."""

    model: PreTrainedModel
    identity: BaseIdentity  # of the pretrained weights, without a new head and rows of new tokens
    new_tokens: tuple[int, ...] = ()  # ids of the tokens that the recipe adds
    head: tuple[
        str, ...
    ] = ()  # names of the modules that are not pretrained; every method trains and saves them in full


class TaskData(Protocol):
    """The data of a run."""

    @property
    def train(self) -> Sequence[Any]:
        """Training examples, in the objective's form."""

    @property
    def validation(self) -> Sequence[Any]:
        """Validation examples, in the objective's form."""

    @property
    def parts(self) -> tuple[int, ...]:
        """Number of training examples from each of the recipe's files, in that order."""

    @property
    def summary(self) -> dict[str, Any]:
        """data.json: `files` with their SHA-256, and the SHA-256 of each split's examples."""


class Work(Protocol):
    """The task of one run, after its data was read and examined and its recipe was found to fit into memory."""

    @property
    def recipe(self) -> Recipe:
        """The recipe to train, with the changes of the plan."""

    @property
    def data(self) -> TaskData:
        """The examples and their sources."""

    def load(self, device: torch.device) -> Base:
        """Reads the pretrained weights."""

    def objective(self, base: PreTrainedModel, device: torch.device) -> AbstractContextManager[Objective]:
        """The objective; within the block, `base` is set up for it."""

    def save_codec(self, folder: Path) -> None:
        """Writes the codec into `folder`: the files that turn input into the model's tensors."""

    def save(self, run: Run, model: nn.Module, identity: BaseIdentity, *, writes: bool) -> Hop:
        """Writes adapter/ or model/ and returns the hop from memory to disk, over held-out examples.

        If the model is sharded, every process calls this and the one with `writes` writes.
        """
