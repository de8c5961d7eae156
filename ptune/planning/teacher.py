"""The teacher that an on-policy distillation holds beside its student, and the memory that it takes."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Literal

from ptune.config.chat import Chat
from ptune.config.on_policy_distillation import OnPolicyDistillation
from ptune.config.recipe import Backbone, Recipe, Train
from ptune.methods.lora import Lora
from ptune.planning.memory_ledger import Ledger

_TOKENS = 256


def teacher_backbone(recipe: Recipe) -> Backbone | None:
    """The recipe's teacher as a backbone, which computes in the student's type; None: it has none."""
    task = recipe.task
    if not isinstance(task, OnPolicyDistillation) or not task.teacher:
        return None
    return Backbone(model=task.teacher, quantize=task.teacher_quantize, dtype=recipe.backbone.dtype)


def with_teacher(ledger: Ledger, recipe: Recipe) -> Ledger:
    """The ledger of a student with what its teacher adds: it is read first, judges each row before the student's own pass, and is
    there until the end.

    Raises: BackboneError if the teacher cannot be found or read.
    """
    backbone = teacher_backbone(recipe)
    if backbone is None:
        return ledger
    own = _alone(backbone.model_dump_json(), ledger.device)
    held = own.weights + own.quantisation_state
    passing = (
        (own.evaluation - held) * ledger.tokens // _TOKENS
    )  # without a gradient it grows as the row does
    own_pass = ledger.activations + ledger.loss_workspace + ledger.allocator_slack
    return replace(
        ledger,
        teacher=held + max(0, passing - own_pass),
        loading=max(own.loading, held + ledger.loading),
        saving=held + ledger.saving,
        main_memory=max(own.main_memory, ledger.main_memory),
        evaluation=held + max(ledger.evaluation, passing),
    )


@functools.lru_cache(maxsize=8)
def _alone(backbone: str, device: Literal["cpu", "cuda"]) -> Ledger:
    """Of one row of `_TOKENS`: plans try many lengths of rows, and each prediction takes seconds."""
    from ptune.planning.prediction import predict

    train = Train(batch_size=1, micro_batch_tokens=_TOKENS)
    recipe = Recipe(
        task=Chat(), backbone=Backbone.model_validate_json(backbone), method=Lora(r=1), train=train
    )
    return predict(recipe, [_TOKENS], device=device)
