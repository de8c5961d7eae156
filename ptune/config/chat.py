"""The task fields of a chat recipe. Torch-free."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from ptune.config.columns import ChatColumns
from ptune.config.task_spec import TaskSpec


class Chat(TaskSpec):
    """Supervised fine-tuning of a causal language model on conversations."""

    takes_rounded_weights: ClassVar[bool] = True

    columns: ChatColumns = ChatColumns()
    template: Path | None = None
    """A Jinja chat template file; default: the model's own."""
    system: str | None = None
    """A system message for conversations that have none."""
    train_on: Literal["assistant", "last"] = "assistant"
    """Targets: every assistant message, or only the last one. A message with `"train": false` is never a target."""
    max_length: int = Field(default=1024, ge=8)
    """Longest example, in tokens."""
    on_overlong: Literal["error", "truncate", "drop", "split"] = "error"
    """What to do with an example longer than `max_length`."""

    @property
    def instruction(self) -> str | None:
        """The system message for conversations that have none, in training and in serving."""
        return self.system
