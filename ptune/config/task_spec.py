"""The base of what a recipe may say of a task, with what lower layers ask of any task."""

from __future__ import annotations

from typing import ClassVar

from ptune.spec import Spec


class TaskSpec(Spec):
    """A recipe's `task`. Its row in `ptune.config.tasks.TASKS` names the code that belongs to it."""

    takes_rounded_weights: ClassVar[bool] = False
    """Whether a frozen backbone may be rounded unasked, to bfloat16 or nf4: export must measure what that changes."""
