"""The task fields of a process reward model's recipe. Torch-free. Fields have the names of TRL's PRM trainer."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, field_validator

from ptune.config.columns import StepColumns
from ptune.config.task_spec import TaskSpec

WRONG, RIGHT = "wrong", "right"


class ProcessReward(TaskSpec):
    """Whether each step of an answer is right. Columns: `prompt`, `completions` (its steps) and `labels` (true or false each)."""

    labels: ClassVar[tuple[str, ...]] = (WRONG, RIGHT)

    columns: StepColumns = StepColumns()
    step_separator: str = Field(default="\n", min_length=1)
    """What follows each step; the model judges a step at the last token of it. Answers are split at it."""
    train_on_last_step_only: bool = False
    """Whether only the last step of each training row is learnt from."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: right and wrong steps count equally in the loss, however rare the wrong ones are."""
    max_length: int = Field(default=512, ge=8)
    """Longest prompt with its steps, in tokens; steps that end later are cut off and not judged."""
    on_overlong: Literal["error", "truncate", "drop"] = "truncate"
    """What to do with a row longer than `max_length`; their number is reported."""

    @field_validator("step_separator")
    @classmethod
    def _no_nul(cls, separator: str) -> str:
        if "\0" in separator:
            raise ValueError("step_separator must not hold a NUL character")
        return separator
