"""The task fields of a distillation recipe. Torch-free."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from ptune.config.chat import Chat


class Distillation(Chat):
    """Training of a student on conversations and on what a teacher thinks likely in the place of each token.

    The adapter or model is one for chat. `ptune label` writes the teacher's labels.
    """

    teacher_labels: Path = Path("labels/teacher")
    """The folder of a teacher's labels, which `ptune label` writes for the same recipe and data."""
    kd_ratio: float = Field(default=0.5, gt=0, le=1)
    """Share of the teacher in the loss: (1 - kd_ratio) cross-entropy + kd_ratio T² KL, at the labels' temperature T."""

    @model_validator(mode="after")
    def _targets_are_soft_already(self) -> Distillation:
        if self.label_smoothing:
            raise ValueError(
                "label_smoothing is not for distillation, whose teacher spreads the targets: leave it out"
            )
        return self
