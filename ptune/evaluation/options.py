"""What an evaluation can be asked for, in every task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ptune.config.columns import USUAL
from ptune.evaluation.require import Requirement


@dataclass(frozen=True)
class EvaluationOptions:
    """The rows to judge by, what is served of the run, and which figures are required."""

    data: Sequence[Path] = ()
    """Files of rows; empty: a run's own test files, else its validation split. A bundle holds none."""
    columns: Mapping[str, str] = field(default_factory=lambda: USUAL)
    """What `data` calls the task's columns."""
    bundle: Path | None = None
    """Of a run: where it was exported to, evaluated beside torch."""
    adapter: str | None = None
    """The adapter of the bundle, where it has to be named."""
    require: Sequence[Requirement] = ()
    reward_model: Path | None = None
    """Of a chat run: the bundle with the reward model that compares the base's answers with the tuned model's."""
    answers: int | None = None
    """Of a chat run: answers of both models that are kept; None: as many as the recipe's `evaluate.answers` says."""
    threads: int | None = None
    """Threads of onnxruntime; None: as many as the machine has cores."""


NOTHING_ASKED = EvaluationOptions()
