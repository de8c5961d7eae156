"""How many replicas a load needs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ptune.engine.options import EngineOptions
from ptune_serve.cluster.load import load_of, replicas_for_load

OPTIONS = EngineOptions(max_rows=10)


@pytest.mark.parametrize(
    ("running", "waiting", "tokens", "expected"),
    [(5, 0, 0, 0.5), (10, 5, 0, 1.5), (1, 0, 900, 0.9), (0, 0, 0, 0)],
)
def test_load_is_the_fuller_of_batch_and_cache(
    running: int, waiting: int, tokens: int, expected: float
) -> None:
    stats = SimpleNamespace(running=running, waiting=waiting, kv_used_tokens=tokens, kv_capacity_tokens=1000)
    assert load_of(stats, OPTIONS) == pytest.approx(expected)


def test_an_encoder_has_no_cache() -> None:
    assert load_of(SimpleNamespace(running=2, waiting=1), OPTIONS) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("loads", "expected"), [([1.0, 1.0], 3), ([0.1, 0.1, 0.1], 1), ([2.8], 4), ([0.0, 0.0], 0), ([0.7], 1)]
)
def test_replicas_have_the_desired_load(loads: list[float], expected: int) -> None:
    context = SimpleNamespace(aggregated_metrics={"load": dict(enumerate(loads))}, target_num_replicas=9)
    assert replicas_for_load(context)[0] == expected


def test_without_word_from_a_replica_nothing_changes() -> None:
    context = SimpleNamespace(aggregated_metrics={}, target_num_replicas=2)
    assert replicas_for_load(context)[0] == 2
