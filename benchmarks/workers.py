"""Processes that live through a whole benchmark and are asked in turn, so that only one computes at any time.

`benchmarks.sides` starts its sides anew for every table. Here a side loads its model once and then does many pieces of work.
A round asks every piece once, in an order that turns round each time, as there. What the sides that wait and other programs
spend meanwhile is counted: it must be next to nothing, or they were in the way.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from benchmarks.sides import Measured

REST_S = 0.3  # threads of the side before fall asleep
END_S = 60  # a side may take to end: one that has started a server ends that first
_TICKS = os.sysconf("SC_CLK_TCK")

Work = Callable[..., Measured]
Open = Callable[[], Work]
"""Loads what a side needs and returns what then answers each call."""


@dataclass(frozen=True)
class Piece:
    """One piece of work: which side does it, and what it is told."""

    side: str
    asked: Mapping[str, Any]


class Workers:
    """Named sides, each in a process of its own. Use it in a `with`."""

    def __init__(self, sides: Mapping[str, Open], *, threads: int) -> None:
        """Starts them one after the other; each is ready when the next begins. Raises: SystemExit."""
        os.environ["OMP_NUM_THREADS"] = str(threads)
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        context = multiprocessing.get_context("spawn")
        self._pipes: dict[str, Connection] = {}
        self._processes: dict[str, Any] = {}
        for name, side in sides.items():
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(side, theirs), name=name, daemon=True)
            process.start()
            theirs.close()
            self._pipes[name], self._processes[name] = ours, process
            self._receive(name)

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, process in self._processes.items():
            self._pipes[name].close()  # which it takes as the end
            process.join(END_S)
            process.kill()

    def ask(self, piece: Piece) -> Measured:
        """One piece of work, after a rest.

        Adds `wall_s` and CPU times: `cpu_s` of that side, `waiting_cpu_s` of the others, `foreign_cpu_s` of all other programs.
        """
        time.sleep(REST_S)
        before, busy_s, started_s = self._cpu_s(), _busy_s(), time.perf_counter()
        self._pipes[piece.side].send(dict(piece.asked))
        measured: Measured = self._receive(piece.side)
        wall_s, busy_s = time.perf_counter() - started_s, _busy_s() - busy_s
        spent = {name: after - before[name] for name, after in self._cpu_s().items()}
        foreign_s = max(0.0, busy_s - sum(spent.values()))
        own = spent.pop(piece.side)
        cpu = {"cpu_s": own, "waiting_cpu_s": sum(spent.values()), "foreign_cpu_s": foreign_s}
        return {**measured, **cpu, "wall_s": wall_s}

    def rounds(
        self, pieces: Callable[[int], Mapping[str, Piece]], count: int, *, warm_up: Mapping[str, Piece]
    ) -> dict[str, list[Measured]]:
        """Rounds of what `pieces` says for each (the same names every time), after one that is not measured."""
        found: dict[str, list[Measured]] = {name: [] for name in warm_up}
        for piece in warm_up.values():
            self.ask(piece)
        for number in range(count):
            asked = pieces(number)
            for name in list(asked) if number % 2 == 0 else list(asked)[::-1]:
                found[name].append(self.ask(asked[name]))
        return found

    def _cpu_s(self) -> dict[str, float]:
        """User and system time of every side so far, its own child processes included."""
        return {name: sum(map(_spent_s, _family(process.pid))) for name, process in self._processes.items()}

    def _receive(self, name: str) -> Any:
        try:
            said, value = self._pipes[name].recv()
        except EOFError:
            raise SystemExit(f"{name} ended without an answer") from None
        if said == "failed":
            raise SystemExit(f"{name} failed:\n{value}")
        return value


def _family(process: int) -> Iterator[int]:
    """A process and all that it started, as long as they live."""
    yield process
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{process}/task"):
            with open(f"/proc/{process}/task/{task}/children", encoding="ascii") as file:
                for child in file.read().split():
                    yield from _family(int(child))


def _spent_s(process: int) -> float:
    with contextlib.suppress(OSError), open(f"/proc/{process}/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS
    return 0.0


def _busy_s() -> float:
    """Time that all of the machine's cores have worked so far, for whomever; what a hypervisor took counts too."""
    with open("/proc/stat", encoding="ascii") as file:
        user, nice, system, _, _, irq, softirq, steal = map(int, file.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / _TICKS


def disturbed(passes: Mapping[str, Sequence[Measured]]) -> float:
    """The share of the cores' time that other programs took while these were measured."""
    every = [one for each in passes.values() for one in each]
    cores = len(os.sched_getaffinity(0))
    return float(sum(one["foreign_cpu_s"] for one in every) / sum(one["wall_s"] for one in every) / cores)


def _serve(side: Open, pipe: Connection) -> None:
    try:
        work = side()
        pipe.send(("ready", None))
        while True:
            pipe.send(("done", work(**pipe.recv())))
    except EOFError:
        return
    except BaseException:
        pipe.send(("failed", traceback.format_exc()))
