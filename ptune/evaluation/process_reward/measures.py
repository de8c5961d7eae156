"""Figures of judged steps: how many are right, and whether the first wrong step is found.

The first wrong step counts as ProcessBench counts it (Zheng et al. 2024, https://arxiv.org/abs/2412.06559): `first_wrong_found`
is over answers with a wrong step, `right_kept` over those without, and F1 is the harmonic mean of the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ptune.config.process_reward import WRONG
from ptune.evaluation import binomial
from ptune.evaluation.classification.bootstrap import Counts, Statistic, Values, intervals, share, sums
from ptune.evaluation.classification.results import Measured

Verdicts: TypeAlias = Sequence[Sequence[str | None]]
"""For each answer, right or wrong of each step; None of one that was cut off."""


def measure(gold: Verdicts, said: Verdicts, seed: int = 0) -> Measured:
    """The figures that there are: those of the first wrong step need answers with and without one."""
    found = _found(gold, said)
    of = _statistic(found)
    with np.errstate(invalid="ignore"):
        point = {name: float(value[0]) for name, value in of(np.ones((1, len(found)), np.float32)).items()}
    known = {name: value for name, value in point.items() if np.isfinite(value)}
    faulty, same = found[:, 2].astype(bool), found[:, 3]
    shares = {"first_wrong_found": same[faulty], "right_kept": same[~faulty]}
    exact = {name: binomial.of_rows(rows) for name, rows in shares.items() if name in known}
    ranges = {name: one for name, one in intervals(len(found), of, seed).items() if name in known}
    return Measured(known, ranges | exact)


def of_counts(gold: Verdicts, said: Verdicts) -> Statistic:
    """Returns the statistic of all figures, for all resamples of answers at once."""
    return _statistic(_found(gold, said))


def first_wrong(verdicts: Sequence[str | None]) -> int | None:
    """The first step that is wrong; None where there is none."""
    return next((at for at, verdict in enumerate(verdicts) if verdict == WRONG), None)


def _found(gold: Verdicts, said: Verdicts) -> NDArray[np.int64]:
    """[answers, 4]: steps judged as they should be; steps; whether one is wrong; whether the first such step, or none, was found."""
    return np.array(
        [
            (
                sum(a == b for a, b in zip(one, other, strict=True)),
                len(one),
                first_wrong(one) is not None,
                first_wrong(one) == first_wrong(other),
            )
            for one, other in zip(gold, said, strict=True)
        ],
        np.int64,
    )


def _statistic(found: NDArray[np.int64]) -> Statistic:
    right, steps, faulty, same = found.T
    columns = np.stack([right, steps, faulty, same * faulty, 1 - faulty, same * (1 - faulty)], 1)

    def statistic(counts: Counts) -> dict[str, Values]:
        of_steps, all_steps, wrong, wrong_found, whole, kept = sums(counts, columns).T
        with np.errstate(invalid="ignore"):
            one, other = wrong_found / wrong, kept / whole
        return {
            "step_accuracy": share(of_steps, all_steps),
            "first_wrong_f1": share(2 * one * other, one + other),
            "first_wrong_found": one,
            "right_kept": other,
        }

    return statistic
