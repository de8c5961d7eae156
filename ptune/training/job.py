"""A training: everything that the loop is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from ptune.config.recipe import Train
from ptune.methods.peft_method import PeftMethod
from ptune.training.average import Average
from ptune.training.callbacks import Callback
from ptune.training.checkpoint import Checkpoints
from ptune.training.guards.diagnosis import Watch
from ptune.training.guards.spike_protection import NormHistory
from ptune.training.journal.metrics_log import Journal
from ptune.training.journal.samples import Samples
from ptune.training.loss.scale import LossScale
from ptune.training.objective import Objective
from ptune.training.order import Mixture
from ptune.training.sampler import Sampler, rewarded


@dataclass(frozen=True)
class Job:
    """The inputs of the loop."""

    train: Train
    accelerator: Accelerator
    model: nn.Module  # prepared by the accelerator
    optimizer: torch.optim.Optimizer  # likewise
    objective: Objective
    examples: Sequence[Any]  # each has a target
    validation: Sequence[Any]
    journal: Journal
    checkpoints: Checkpoints
    watch: Watch = field(default_factory=Watch)
    mixture: Mixture | None = None  # if the recipe gives the files weights
    callbacks: Sequence[Callback] = ()  # called after each step, in the main process
    norms: NormHistory = field(default_factory=NormHistory)  # the gradient norms before the step that is run
    rollbacks: int = 0  # before the step that is run
    scaled: bool = False  # whether the loss is: of a model in float16
    scale: LossScale = field(default_factory=LossScale)  # for the step that is run
    method: PeftMethod | None = None  # whose adapter `model` has
    average: Average | None = None  # of the trained weights; what is validated
    sampler: Sampler | None = None  # makes each step's examples out of those
    steps_per_batch: int = 1  # steps that learn from the same examples, one after the other
    samples: Samples | None = None  # what the model answers at each validation
    underway: Callable[[str], None] = lambda _: None  # told what is being done between two steps

    @property
    def measure(self) -> str:
        """What a user watches: "loss", or "reward" where answers are sampled."""
        return "loss" if rewarded(self.objective) is None else "reward"
