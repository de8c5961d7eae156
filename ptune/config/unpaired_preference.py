"""The task fields of a recipe for answers that are judged one by one. Torch-free."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ptune.config.chat import Chat
from ptune.config.columns import UnpairedPreferenceColumns


class UnpairedPreference(Chat):
    """Training on answers that are each called desirable or not, as by thumbs up and down: KTO.

    The adapter is one for chat. No token of a prompt is a target.
    """

    columns: UnpairedPreferenceColumns = UnpairedPreferenceColumns()  # type: ignore[assignment]  # not conversations, as its parent's
    loss: Literal["kto", "apo_zero"] = "kto"
    """The loss of an answer, see docs/preferences.md."""
    beta: float = Field(default=0.1, gt=0)
    """How much a difference in log-probability counts."""
    desirable_weight: float = Field(default=1.0, gt=0)
    """Weight of the loss of a desirable answer."""
    undesirable_weight: float = Field(default=1.0, gt=0)
    """Weight of the loss of an undesirable one."""
    on_overlong: Literal["error", "drop"] = "error"
    """What to do with an answer that is, with its prompt, longer than `max_length`."""

    @property
    def compares_with_drift(self) -> bool:
        """Whether the loss needs z0, how far the model has moved away from its reference."""
        return self.loss == "kto"

    @model_validator(mode="after")
    def _no_smoothing(self) -> UnpairedPreference:
        if self.label_smoothing:
            raise ValueError("label_smoothing is not for unpaired preferences: their losses have none")
        return self
