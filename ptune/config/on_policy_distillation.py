"""The task fields of an on-policy distillation recipe. Torch-free."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ptune.config.own_answers import OwnAnswers


class OnPolicyDistillation(OwnAnswers):
    """A student answers the prompts of conversations itself, and learns how likely a teacher thinks each token of its answers: GKD
    (Agarwal et al. 2024, https://arxiv.org/abs/2306.13649).

    The teacher is in memory beside the student. The adapter or model is one for chat.
    """

    teacher: str = ""
    """The model to learn from: a local folder, a GGUF file, an installed package that contains a model, or a hub id. Of an adapter `ptune merge` makes such a folder."""
    teacher_quantize: Literal["none", "nf4", "int8"] = "none"
    """How the teacher's weights are held: as they are stored, or quantised by bitsandbytes. Their type is the student's."""
    lmbda: float = Field(default=0.5, ge=0, le=1)
    """Share of steps in which the student answers itself; in the others it learns from the answers in the data. The name is TRL's."""
    beta: float = Field(default=0.5, ge=0, le=1)
    """Which divergence from the teacher: 0, KL(teacher ‖ student); 1, KL(student ‖ teacher); between, the generalised Jensen-Shannon divergence."""

    @model_validator(mode="after")
    def _targets_are_the_teachers(self) -> OnPolicyDistillation:
        if self.label_smoothing:
            raise ValueError(
                "label_smoothing is not for distillation, whose teacher spreads the targets: leave it out"
            )
        return self
