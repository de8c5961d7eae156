"""What a tenant feels of another's flood: python -m benchmarks.fairness --bundle B      (about 8 minutes)

One engine. A tenant asks at random times for half of its half of the capacity, which is measured first. Beside it another one asks

    fair    at random times for exactly the rest
    flood   for more than all: four times as many requests as there are slots are always waiting or running
    queue   as flood, but both are one tenant: who comes first is served first, as without fairness

The tenant's requests are the same, at the same times, in each; the 95th percentile of the time from request to last token is compared, round by
round. Writes results/fairness.json.
"""

from __future__ import annotations

import argparse
import queue
import random
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.goals import Goal, judged, keep, shown
from benchmarks.sides import ratio

if TYPE_CHECKING:
    from ptune.engine.decoder.engine import Engine
    from ptune.engine.decoder.request import Request, Token
    from ptune.engine.decoder.ticket import Ticket

PACKAGES = ("ptune", "onnxruntime", "numpy")
GOAL = Goal(1.2, 1.1, more=False)
ROWS = 8
PROMPT, OUTPUT = (16, 48), (6, 18)  # tokens
WARM_UP_S, CAPACITY_S = 5.0, 15.0


class Traffic:
    """Requests of two tenants in an engine, and how long those of "own" took."""

    def __init__(self, engine: Engine, seed: int) -> None:
        self.took_s: list[float] = []
        self.ended = 0
        self._engine = engine
        self._random = {"own": random.Random(2 * seed), "other": random.Random(2 * seed + 1)}
        self._over: queue.SimpleQueue[str] = queue.SimpleQueue()  # whose request has ended
        self._tickets: list[Ticket] = []

    def run(self, seconds: float, own: float, other: float | None, tenants: tuple[str, str]) -> None:
        """own, other: requests for each second; None = a flood. tenants: the names of the two."""
        begun_s = time.perf_counter()
        calls = (
            _times(self._random["own"], own, seconds),
            _times(self._random["other"], other or 0.0, seconds),
        )
        coming = sorted([(at, "own") for at in calls[0]] + [(at, "other") for at in calls[1]])
        for _ in range(4 * ROWS if other is None else 0):
            self._submit("other", tenants[1])
        while (now_s := time.perf_counter() - begun_s) < seconds:
            while coming and coming[0][0] <= now_s:
                whose = coming.pop(0)[1]
                self._submit(whose, tenants[whose == "other"])
            try:
                whose = self._over.get(
                    timeout=max(0.0, min(coming[0][0] if coming else seconds, seconds) - now_s)
                )
            except queue.Empty:
                continue
            if whose == "other" and other is None:
                self._submit("other", tenants[1])
        for ticket in self._tickets:
            ticket.cancel()
        while self._engine.stats().running or self._engine.stats().waiting:
            time.sleep(0.01)

    def _submit(self, whose: str, tenant: str) -> None:
        asked_s = time.perf_counter()
        request = _request(self._random[whose], self._engine.signature.vocab_size, tenant)
        self._tickets.append(self._engine.submit(request, partial(self._deliver, whose, asked_s)))

    def _deliver(self, whose: str, asked_s: float, token: Token) -> None:
        if token.finish == "length":
            self.ended += 1
            if whose == "own":
                self.took_s.append(time.perf_counter() - asked_s)
        if token.finish is not None:
            self._over.put(whose)


def _times(rng: random.Random, rate: float, seconds: float) -> list[float]:
    """Random moments, `rate` for each second on average."""
    found, at = [], 0.0
    while rate and (at := at + rng.expovariate(rate)) < seconds:
        found.append(at)
    return found


def _request(rng: random.Random, vocab: int, tenant: str) -> Request:
    """Nothing that was asked before."""
    from ptune.engine.decoder.request import Request
    from ptune.engine.sampling import Sampling

    prompt = tuple(rng.randrange(vocab) for _ in range(rng.randint(*PROMPT)))
    return Request(prompt, sampling=Sampling(temperature=0), max_tokens=rng.randint(*OUTPUT), tenant=tenant)


def _p95(values: list[float]) -> float:
    return sorted(values)[int(0.95 * (len(values) - 1))]


def rounds(engine: Engine, number: int, seconds: float, capacity: float) -> Iterator[dict[str, float]]:
    """The 95th percentile of each kind, in seconds; kinds in an order that turns round."""
    kinds = {
        "fair": (capacity * 0.75, ("own", "other")),
        "flood": (None, ("own", "other")),
        "queue": (None, ("", "")),
    }
    for seed in range(number):
        found = {}
        for kind in list(kinds)[:: -1 if seed % 2 else 1]:
            other, tenants = kinds[kind]
            traffic = Traffic(engine, seed)
            traffic.run(seconds, capacity * 0.25, other, tenants)
            found[kind] = _p95(traffic.took_s)
        yield found


def main() -> int:
    """Prints a table and writes fairness.json; 1 where the goal is missed."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--bundle", type=Path, required=True)
    options.add_argument("--profile", default=None, help="default: the bundle's own choice")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--rounds", type=int, default=6)
    options.add_argument("--seconds", type=float, default=25.0, help="of each kind in each round")
    chosen = options.parse_args()

    from ptune.engine.decoder.engine import Engine

    engine = Engine.open(
        chosen.bundle, profile=chosen.profile, threads=chosen.threads, max_rows=ROWS, max_waiting=1_000_000
    )
    Traffic(engine, -1).run(min(WARM_UP_S, chosen.seconds), 0.0, None, ("", ""))
    full_s, full = min(CAPACITY_S, chosen.seconds), Traffic(engine, -2)
    full.run(full_s, 0.0, None, ("", ""))
    capacity = full.ended / full_s
    passes = list(rounds(engine, chosen.rounds, chosen.seconds, capacity))
    preempted = engine.stats().preempted
    engine.close()
    fair = [one["fair"] for one in passes]
    rows = {
        "flood / fair": judged(ratio([one["flood"] for one in passes], fair), GOAL, preempted=preempted),
        "queue / fair": judged(ratio([one["queue"] for one in passes], fair), None),
    }
    print(f"capacity {capacity:.2f} requests/s; {preempted} rows gave way")
    for name, row in rows.items():
        print(shown(name, row, "p95 of a tenant's requests"))
    document = {
        "command": "python -m benchmarks.fairness --bundle B",
        "profile": chosen.profile,
        "threads": chosen.threads,
        "capacity_per_s": capacity,
        "rows": rows,
        "passes": {"p95_s": passes},
    }
    keep("fairness", document, PACKAGES)
    return 0 if rows["flood / fair"]["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
