"""The exact interval and test of a share are scipy's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptune.evaluation import binomial

stats = pytest.importorskip("scipy.stats")

shares = st.integers(0, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(shares.filter(lambda share: share[1] > 0), st.sampled_from([0.8, 0.95, 0.99]))
def test_the_interval_is_clopper_and_pearsons(share: tuple[int, int], level: float) -> None:
    expected = stats.binomtest(*share).proportion_ci(level, method="exact")
    assert binomial.interval(*share, level) == pytest.approx((expected.low, expected.high), abs=1e-9)


@given(shares.filter(lambda share: share[1] > 0))
def test_the_test_is_exact(share: tuple[int, int]) -> None:
    assert binomial.p_value(*share) == pytest.approx(stats.binomtest(*share).pvalue, abs=1e-12)


def test_without_votes_any_share_may_be() -> None:
    assert binomial.interval(0, 0) == (0.0, 1.0)
    assert binomial.p_value(0, 0) == 1.0


@pytest.mark.parametrize("share", [(-1, 3), (4, 3)])
def test_what_is_no_share_is_refused(share: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="no share"):
        binomial.interval(*share)
