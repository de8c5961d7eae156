"""Counts of numbers in bins, as lines of text."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_BINS = 10
BAR = 40  # characters


@dataclass(frozen=True)
class Bin:
    """How many numbers are from `first` to `last`, both included."""

    first: int
    last: int
    count: int


def bins(counts: Mapping[int, int], limit: int) -> list[Bin]:
    """About ten bins of a round width over counts of positive numbers, the last one as wide as the rarest need.

    None reaches over `limit`, so that it can be marked.
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
    """A bar whose length is the share of `count` in `most`; what is there at all can be seen."""
    return "█" * round(BAR * count / most) or ("▏" if count else "")


def drawn(found: list[Bin], limit: int, name: str, larger: str = "longer") -> Iterator[str]:
    """Lines of a histogram, with a line where the limit is. larger: what is beyond it."""
    most = max((each.count for each in found), default=1)
    digits = len(f"{found[-1].last:,}") if found else 1
    mark = f"{'':─<{2 * digits + 3}} {name} {limit:,}"
    passed = False
    for each in found:
        if each.first > limit and not passed:
            passed = True
            yield mark
        span = f"{each.first:>{digits},} – {each.last:<{digits},}"
        yield f"{span} {bar(each.count, most)} {each.count:,}".rstrip()
    if not passed:
        yield f"{mark}: nothing is {larger}"


def _round_width(width: float) -> int:
    """The next of 1, 2, 5, 10, 20, 50, …"""
    scale = 10 ** math.floor(math.log10(max(width, 1)))
    return next(step * scale for step in (1, 2, 5, 10) if step * scale >= width)


def percentile(counts: Mapping[int, int], share: float) -> int:
    """The smallest number that is not less than `share` of all; 0 where there are none."""
    numbers = sorted(counts)
    sums = itertools.accumulate(counts[number] for number in numbers)
    wanted = share * sum(counts.values())
    return next((number for number, upto in zip(numbers, sums, strict=True) if upto >= wanted), 0)
