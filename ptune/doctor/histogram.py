"""Histograms of counts as lines of text."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_BINS = 10
BAR = 40  # characters


@dataclass(frozen=True)
class Bin:
    """The count of numbers from `first` to `last`, inclusive."""

    first: int
    last: int
    count: int


def bins(counts: Mapping[int, int], limit: int) -> list[Bin]:
    """Makes about ten bins of a round width over counts of positive numbers; the last one is wider for rare values.

    No bin crosses `limit`, so that it can be marked.
    """
    if not counts:
        return []
    largest, usual = max(counts), percentile(counts, 0.99)
    width = _round_width(usual / _BINS)
    edges = {*range(0, usual + width, width), largest}
    starts = sorted({edge for edge in edges | {limit} if edge <= largest})
    spans = [(low + 1, high) for low, high in itertools.pairwise(starts)]
    return [Bin(low, high, sum(counts[n] for n in counts if low <= n <= high)) for low, high in spans]


def bar(count: int, most: int) -> str:
    """A bar whose length is the share of `count` in `most`; visible for any count above 0."""
    return "█" * round(BAR * count / most) or ("▏" if count else "")


def drawn(histogram: list[Bin], limit: int, name: str, larger: str = "longer") -> Iterator[str]:
    """Lines of a histogram, with a line at the limit. larger: the adjective for values beyond it."""
    most = max((each.count for each in histogram), default=1)
    digits = len(f"{histogram[-1].last:,}") if histogram else 1
    mark = f"{'':─<{2 * digits + 3}} {name} {limit:,}"
    passed = False
    for each in histogram:
        if each.first > limit and not passed:
            passed = True
            yield mark
        span = f"{each.first:>{digits},} – {each.last:<{digits},}"
        yield f"{span} {bar(each.count, most)} {each.count:,}".rstrip()
    if not passed:
        yield f"{mark}: nothing is {larger}"


def _round_width(width: float) -> int:
    """Rounds up to 1, 2, 5, 10, 20, 50, …"""
    scale = 10 ** math.floor(math.log10(max(width, 1)))
    return next(step * scale for step in (1, 2, 5, 10) if step * scale >= width)


def percentile(counts: Mapping[int, int], share: float) -> int:
    """The smallest number that is not less than `share` of all; 0 without numbers."""
    numbers = sorted(counts)
    sums = itertools.accumulate(counts[number] for number in numbers)
    rank = share * sum(counts.values())
    return next((number for number, upto in zip(numbers, sums, strict=True) if upto >= rank), 0)
