"""What a merge keeps is a share of a gain, over examples and seeds as they are."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import merging


def test_a_share_of_the_gain() -> None:
    base, unmerged = [10.0, 8.0, 6.0] * 20, [6.0, 6.0, 4.0] * 20
    half = [(a + b) / 2 for a, b in zip(base, unmerged, strict=True)]
    assert merging.share(base, half, unmerged) == pytest.approx({"value": 0.5, "low": 0.5, "high": 0.5})
    none = merging.share(base, [10.0, 8.0, 6.0] * 20, unmerged)
    assert (none["value"], none["low"], none["high"]) == (0, 0, 0)
    some = merging.share(base, [6.0, 8.0, 6.0] * 20, unmerged)  # one in three is kept whole
    assert some["value"] == pytest.approx(0.5)
    assert some["low"] < some["value"] < some["high"]


def test_seeds_are_averaged_example_by_example() -> None:
    seeds: list[dict[str, Any]] = [{"losses": {"int4": [1.0, 2.0]}}, {"losses": {"int4": [3.0, 6.0]}}]
    assert merging.pooled(seeds, "int4") == [2.0, 4.0]


def test_the_loss_is_at_the_targets_alone() -> None:
    asked: list[list[int]] = []

    def logprobs(ids: tuple[int, ...], wanted: list[int]) -> np.ndarray:
        asked.append(wanted)
        return np.log(np.full((len(wanted), 9), [1 / 9] * 9))

    example: Any = type("Example", (), {"__len__": lambda _: 4})()
    example.ids, example.targets = (3, 5, 7, 8), (True, False, True, True)
    found = merging.loss(SimpleNamespace(logprobs=logprobs), example)
    assert asked == [[1, 2]]  # the first token cannot be predicted
    assert found == pytest.approx(2 * math.log(9))
