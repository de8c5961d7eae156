"""What counts as equal, and what does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ptune.parity import compare, liveness, log_softmax

RANDOM = np.random.default_rng(0)
THERE = [log_softmax(RANDOM.standard_normal((n, 50)) * 3) for n in (4, 7)]


def test_log_softmax_is_torchs() -> None:
    logits = (RANDOM.standard_normal((5, 300)) * 20).astype(np.float32)
    expected = torch.log_softmax(torch.from_numpy(logits).double(), -1).numpy()
    np.testing.assert_allclose(log_softmax(logits), expected, rtol=1e-7, atol=2e-6)


def test_the_same_is_zero() -> None:
    hop = compare("same", THERE, THERE, max_abs_logprob=1e-3, mean_kl=1e-6)
    assert (hop.max_abs_logprob, hop.mean_kl, hop.top1, hop.passed) == (0, 0, 1, True)
    assert (hop.prompts, hop.positions) == (2, 11)


def test_a_constant_shift_of_logits_means_nothing() -> None:
    logits = RANDOM.standard_normal((3, 50)).astype(np.float32)
    hop = compare("shift", [log_softmax(logits)], [log_softmax(logits + 100)], max_abs_logprob=1e-4)
    assert hop.passed


def test_kl_is_torchs() -> None:
    here = [log_softmax(p + RANDOM.standard_normal(p.shape) * 0.1) for p in THERE]
    expected = sum(
        float(
            torch.nn.functional.kl_div(
                torch.from_numpy(b), torch.from_numpy(a), log_target=True, reduction="sum"
            )
        )
        for a, b in zip(THERE, here, strict=True)
    )
    assert compare("kl", THERE, here, mean_kl=1).mean_kl == pytest.approx(expected / 11, rel=1e-4)


@pytest.mark.parametrize("wrong", [0.01, np.nan, np.inf])
def test_one_wrong_value_is_refused(wrong: float) -> None:
    here = [p.copy() for p in THERE]
    here[1][3, 20] += wrong
    assert not compare("drift", THERE, here, max_abs_logprob=1e-3).passed


@pytest.mark.parametrize("limit", ["max_abs_logprob", "mean_kl"])
def test_a_figure_at_its_limit_passes_and_one_above_does_not(limit: str) -> None:
    here = [log_softmax(p + RANDOM.standard_normal(p.shape) * 0.01) for p in THERE]
    figure = getattr(compare("drift", THERE, here), limit)
    for value, passed in ((figure, True), (float(np.nextafter(figure, 0)), False)):
        limits: Any = {limit: value}
        assert compare("drift", THERE, here, **limits).passed is passed


def test_a_share_of_equal_tokens_at_its_limit_passes_and_one_below_does_not() -> None:
    here = [p.copy() for p in THERE]
    here[0][0] = np.roll(here[0][0], 1)  # another token is the likeliest at 1 of 11 positions
    assert compare("one", THERE, here, top1=10 / 11).passed
    here[1][0] = np.roll(here[1][0], 1)
    assert not compare("two", THERE, here, top1=10 / 11).passed


@pytest.mark.parametrize(("error", "passed"), [(0.0099, True), (0.0101, False)])
def test_an_effect_may_differ_by_its_limit_at_most(error: float, passed: bool) -> None:
    moved = [p + np.float32(1) for p in THERE]
    here = [p + np.float32(1 + error) for p in THERE]
    assert liveness("nearly", (THERE, moved), (THERE, here), 0.01).passed is passed


def test_liveness() -> None:
    moved = [log_softmax(p + RANDOM.standard_normal(p.shape)) for p in THERE]
    assert liveness("same", (THERE, moved), (THERE, moved), 0.01).passed
    nearly = [p + 1e-4 * RANDOM.standard_normal(p.shape).astype(np.float32) for p in moved]
    assert liveness("nearly", (THERE, moved), (THERE, nearly), 0.01).passed
    silent = liveness("the base was served silently", (THERE, moved), (THERE, THERE), 0.01)
    assert silent.liveness == pytest.approx(1.0)
    assert not silent.passed
    dead = liveness("dead", (THERE, THERE), (THERE, THERE), 0.01)
    assert not dead.passed
    assert "dead" in dead.note
