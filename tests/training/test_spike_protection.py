"""A spike is shortened the more the longer it is; ordinary norms pass, and the history is a function of the norms."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptune.training.guards.spike_protection import NormHistory

NORMS = st.lists(st.floats(0, 1e6), min_size=1, max_size=80)


def after(norms: list[float]) -> NormHistory:
    history = NormHistory()
    for norm in norms:
        history = history.after(norm)
    return history


@given(NORMS)
def test_the_first_25_are_only_collected(norms: list[float]) -> None:
    first = norms[:25]
    history = after(first)
    assert history.mean == pytest.approx(statistics.fmean(first), rel=1e-9, abs=1e-9)
    assert history.variance == pytest.approx(statistics.pvariance(first), rel=1e-6, abs=1e-6)
    assert len(first) == 25 or history.limit(1e300) == math.inf


def test_the_rule_of_the_paper_by_hand() -> None:
    """25 norms of mean 1 and deviation 0.2; a norm of 3 has z = 10 and is cut to 1 + 0.2 · 2.5² / 10."""
    history = after([0.8, 1.2] * 12 + [1.0])
    history = NormHistory(history.steps, 1.0, 0.04)
    assert history.limit(1.49) == math.inf
    assert history.limit(3.0) == pytest.approx(1.125)
    assert history.limit(21.0) == pytest.approx(1.0125)
    spiked = history.after(3.0)
    assert spiked.mean == pytest.approx(0.97 + 0.03 * 1.125)
    assert spiked.variance == pytest.approx(0.97 * 0.04 + 0.03 * (1.125 - spiked.mean) ** 2)


@given(NORMS, st.floats(1e-3, 1e9), st.floats(1e-3, 1e9))
def test_a_cut_norm_is_shorter_and_a_longer_spike_is_cut_to_less(
    norms: list[float], one: float, other: float
) -> None:
    history = after(norms)
    low, high = sorted([one, other])
    if history.limit(low) < math.inf:
        assert history.mean <= history.limit(high) <= history.limit(low) <= low * (1 + 1e-9)


def test_steady_norms_pass_and_a_spike_does_not_become_usual() -> None:
    chance = random.Random(0)
    usual = [chance.uniform(0.5, 1.5) for _ in range(300)]
    history, cut = NormHistory(), 0
    for norm in usual:
        cut += history.limit(norm) < math.inf
        history = history.after(norm)
    assert cut <= 3
    spiked = history.after(100.0)
    assert spiked.mean < 1.2
    assert spiked.limit(100.0) < 1.2
