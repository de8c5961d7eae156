"""What a recipe may say."""

from __future__ import annotations

from pydantic import Field

from ptune.config.task_spec import TaskSpec


class TextLength(TaskSpec):
    """Whether a text is short or long: rows of `text`, which need no label."""

    boundary: int = Field(default=30, ge=1)
    """A text of at least so many characters is long."""
    max_length: int = Field(default=64, ge=4)
    """Longest text, in tokens; of a longer one the end is cut off."""
