"""The base class of a recipe's task, with the attributes that lower layers read from every task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

from ptune.config.columns import Columns
from ptune.spec import Spec


class TaskSpec(Spec):
    """A recipe's `task`. Its row in `ptune.config.tasks.TASKS` names the code that belongs to it."""

    takes_rounded_weights: ClassVar[bool] = False
    """Whether a frozen backbone may be rounded to bfloat16 or nf4 by default: export then measures what that changes."""

    learns_from_answers: ClassVar[bool] = False
    """Whether what it learns from are the model's own answers: then nothing in a forward pass may be left to chance."""

    columns: Columns = Columns()
    """What the task's columns are called in your files; default: their usual names."""

    @property
    def steps_per_batch(self) -> int:
        """Optimiser steps that learn from the same examples, one after the other."""
        return 1

    def with_columns(self, names: Mapping[str, str]) -> Self:
        """This task for files with other names. Raises: UsageError for a column that the task does not have."""
        return self.model_copy(update={"columns": self.columns.changed(names)})
