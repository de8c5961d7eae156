"""Sides take turns, and a ratio comes with its interval."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.sides import Measured, alternate, interval, peak_bytes, ratio, reset_peak


def side(name: str, log: Path) -> Iterator[Measured]:
    for number in range(100):
        with log.open("a") as file:
            file.write(name)
        yield {"number": number, "at": time.monotonic()}


def test_sides_take_turns_and_turn_round(tmp_path: Path) -> None:
    log = tmp_path / "log"
    sides = {name: functools.partial(side, name, log) for name in "AB"}
    found = alternate(sides, 2, threads=1, warm_up=1)
    assert log.read_text() in ("BAABBA", "ABBAAB")
    assert [[step["number"] for step in found[name]] for name in "AB"] == [[1, 2], [1, 2]]


def test_a_ratio_is_the_median_of_pairs() -> None:
    found = ratio([2.0, 4.0, 6.0, 8.0, 30.0], [1.0, 2.0, 2.0, 2.0, 3.0])
    assert (found.median, found.pairs) == (3.0, 5)
    assert 2.0 <= found.low <= 3.0 <= found.high <= 10.0


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    import random
    import statistics

    chance, hits = random.Random(1), 0
    for _ in range(40):
        low, high = interval([chance.gauss(5, 1) for _ in range(25)], statistics.fmean)
        hits += low <= 5 <= high
    assert 33 <= hits <= 40


def test_peak_memory_is_that_since_the_reset() -> None:
    block = bytearray(80 * 2**20)
    high = peak_bytes()
    del block
    reset_peak()
    assert high - peak_bytes() >= 60 * 2**20
