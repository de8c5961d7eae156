"""What the tests use instead of predicting again is what predicting again gives."""

from __future__ import annotations

from typing import Any

import pytest
from support import planned_once

from ptune.methods.lora import Lora
from ptune.planning.files import describe

from .conftest import Make

LENGTHS = [200, 120, 90, 60, 30]


@pytest.fixture(autouse=True)
def count(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was predicted anew."""
    predicted, fresh = [], planned_once.fresh

    def counted(*arguments: Any, **options: Any) -> Any:
        predicted.append(arguments)
        return fresh(*arguments, **options)

    monkeypatch.setattr(planned_once, "fresh", counted)
    return predicted


LEARNING: dict[str, Any] = {
    "epochs": 3.0, "max_steps": 2, "lr": 1e-2, "schedule": "wsd", "warmup": 0.5, "decay": 0.5, "rollbacks": 0,
    "validate_every": 1, "save_every": 1, "keep_checkpoints": 5, "patience": 1, "seed": 3,
}  # fmt: skip


def test_how_long_it_learns_changes_nothing(make: Make, count: list[Any]) -> None:
    plain, other = make(), make(**LEARNING)
    described = describe(plain.backbone)
    assert planned_once.fresh(plain, LENGTHS, described=described) == planned_once.fresh(
        other, LENGTHS, described=described
    )
    count.clear()
    first, second = (planned_once.predict(recipe, LENGTHS, described=described) for recipe in (plain, other))
    assert first == second == planned_once.predict(plain, LENGTHS[::-1], described=described)
    assert len(count) <= 1
    assert first == planned_once.fresh(plain, LENGTHS, described=described)


@pytest.mark.parametrize(
    "changes",
    [
        {"rank": 6},
        {"quantize": "nf4"},
        {"optimizer": "lion"},
        {"micro_batch_tokens": 128},
        {"batch_size": 3, "micro_batch_tokens": 96},
        {"gradient_checkpointing": True},
        {"fast": False},
        {"method": Lora(r=4, target_modules=("q_proj",))},
    ],
)
def test_whatever_takes_memory_is_predicted_anew(make: Make, changes: dict[str, Any]) -> None:
    plain, other = make(), make(**changes)
    described = describe(plain.backbone)
    assert planned_once.predict(plain, LENGTHS, described=described) != planned_once.predict(
        other, LENGTHS, described=described
    )
