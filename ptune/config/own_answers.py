"""The task fields of recipes that learn from the model's own answers. Torch-free."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from ptune.config.chat import Chat


class OwnAnswers(Chat):
    """Training on answers that the engine samples with the weights of the same step. The adapter is one for chat.

    Each step compares the log-probabilities of what was sampled in both programs.
    """

    learns_from_answers: ClassVar[bool] = True

    answer_tokens: int = Field(default=128, ge=1)
    """Longest answer that is sampled, in tokens."""
    drift_limit: float = Field(default=1e-3, gt=0)
    """Largest difference between the log-probabilities of a sampled token in training and in the engine: beyond it the run stops."""
    bundle: Path | None = None
    """A bundle of the same base whose engine samples the answers; default: one that is exported into the run's folder."""
    on_overlong: Literal["error", "drop"] = "error"
    """What to do with what is too long for `max_length`."""
