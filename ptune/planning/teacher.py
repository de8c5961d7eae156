"""The teacher that an on-policy distillation holds beside its student, and the memory that it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ptune.config.on_policy_distillation import OnPolicyDistillation
from ptune.config.recipe import Backbone, Recipe
from ptune.planning.memory_ledger import Ledger

TOKENS = 256
"""Of the row that the passes of a teacher alone are planned for."""


def teacher_backbone(recipe: Recipe) -> Backbone | None:
    """The recipe's teacher as a backbone, which computes in the student's type; None: it has none."""
    task = recipe.task
    if not isinstance(task, OnPolicyDistillation) or not task.teacher:
        return None
    return Backbone(model=task.teacher, quantize=task.teacher_quantize, dtype=recipe.backbone.dtype)


def with_teacher(ledger: Ledger, recipe: Recipe, alone: Callable[[Backbone], Ledger]) -> Ledger:
    """The ledger of a student with what its teacher adds: it is read first, judges each row before the student's own pass, and is
    there until the end.

    alone: the ledger of a backbone with a row of `TOKENS`.

    Raises: BackboneError if the teacher cannot be found or read.
    """
    backbone = teacher_backbone(recipe)
    if backbone is None:
        return ledger
    own = alone(backbone)
    held = own.weights + own.quantisation_state
    passing = (own.evaluation - held) * ledger.tokens // TOKENS  # without a gradient it grows as the row does
    own_pass = ledger.activations + ledger.loss_workspace + ledger.allocator_slack
    return replace(
        ledger,
        teacher=held + max(0, passing - own_pass),
        loading=max(own.loading, held + ledger.loading),
        saving=held + ledger.saving,
        main_memory=max(own.main_memory, ledger.main_memory),
        evaluation=held + max(ledger.evaluation, passing),
    )
