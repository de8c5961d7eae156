"""The base class of a recipe's task, with the attributes that lower layers read from every task."""

from __future__ import annotations

from typing import ClassVar

from ptune.spec import Spec


class TaskSpec(Spec):
    """A recipe's `task`. Its row in `ptune.config.tasks.TASKS` names the code that belongs to it."""

    takes_rounded_weights: ClassVar[bool] = False
    """Whether a frozen backbone may be rounded to bfloat16 or nf4 by default: export then measures what that changes."""
