"""Rows that are answered by engines on many machines: streamed through, in order, each exactly once.

The driver reads rows, hands pieces of them to the workers, and appends answers in the rows' order to a file beside the
output. What is in flight is bounded, and a lost worker's pieces go to the others.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from ptune.cluster.connection import Share
from ptune.cluster.inside import enter
from ptune.cluster.part_file import PartFile
from ptune.engine.options import EngineOptions
from ptune.errors import PtuneError
from ptune.formats.bundle import Bundle
from ptune.formats.cache import key_of
from ptune.formats.whole_write import sha256_of
from ptune.progress import Progress, say
from ptune.version import __version__

MANIFEST = "manifest.json"
Row = Mapping[str, Any]

MOST_LOSSES = (
    3  # workers that may be lost over the same piece, or one after another before the first has begun
)
_AT_ONCE = 2  # pieces that one worker has: while the first ends, the second keeps the batch full
_WINDOW = 8  # pieces for each worker that may be ahead of the first that is missing
_LOOK_EVERY_S = 1.0
_WAITING_S = 30  # looks without any worker until that is said


@dataclass(frozen=True)
class Answering:
    """What answers depend on beside the rows."""

    bundle: Path
    sha256: str  # of its manifest
    engine: EngineOptions
    adapter: str
    seed: int | None
    options: Mapping[str, Any]

    @classmethod
    def of(
        cls, bundle: Path, engine: EngineOptions, adapter: str, seed: int | None, options: Mapping[str, Any]
    ) -> Answering:
        """Raises: FormatError if the folder is not a bundle."""
        return cls(bundle, sha256_of(Bundle.open(bundle).folder / MANIFEST), engine, adapter, seed, options)

    def key(self, rows_sha256: str) -> str:
        """A hash of everything that the answers depend on."""
        engine = [self.engine.profile, self.engine.kv_cache_dtype, self.engine.kernels]
        parts = [__version__, rows_sha256, self.sha256, engine, self.adapter, self.seed, dict(self.options)]
        return key_of(parts)


@dataclass
class Piece:
    """Rows that one worker answers together. first: the index of the first of them."""

    first: int
    rows: Sequence[Row]
    losses: int = 0


class Answerer:
    """A process with an engine."""

    def __init__(self, job: Answering, folder: str) -> None:
        self._job, self._folder = job, folder
        self._model: Any = None

    def begin(self) -> None:
        """Loads the bundle. Raises: PtuneError if it is not the driver's."""
        enter(self._folder)
        import ptune.progress
        from ptune.tasks.chat.infer import load
        from ptune.tasks.chat.offline import IN_FLIGHT

        ptune.progress.console.quiet = True
        manifest = self._job.bundle / MANIFEST
        if not manifest.is_file() or sha256_of(manifest) != self._job.sha256:
            raise PtuneError(
                f"{os.uname().nodename} does not see the same {self._job.bundle}: every machine needs the bundle at"
                " this path"
            )
        waiting = max(self._job.engine.max_waiting, _AT_ONCE * IN_FLIGHT)  # none of ours is refused
        self._model = load(self._job.bundle, replace(self._job.engine, max_waiting=waiting))

    def answer(self, first: int, rows: Sequence[Row]) -> list[str]:
        """The lines of answered rows. first: index of the first row, which its seed depends on."""
        from ptune.tasks.chat.offline import answer_all, as_line

        job = self._job
        seed = None if job.seed is None else job.seed + first
        return [as_line(row) for row in answer_all(self._model, rows, job.adapter, seed, job.options)]


def answer_on(job: Answering, rows: Iterable[Row], total: int, share: Share, part: PartFile) -> None:
    """Answers all rows after the `part.lines` that are there already.

    rows: all of them; they are read as they are needed. Raises: PtuneError as the engine does, or if workers are lost again
    and again.
    """
    done = part.lines
    pieces = _pieces(itertools.islice(rows, done, None), done, _rows_each(total - done, share.workers))
    pool = _Pool(job, share)
    with Progress("answering", total, unit="rows", done=done) as progress:
        for lines in pool.answered(pieces, progress):
            part.append(lines)
            progress.advance(len(lines))


def _rows_each(rows: int, workers: int) -> int:
    """So many rows as an engine has in flight at once, but enough pieces for all workers."""
    from ptune.tasks.chat.offline import IN_FLIGHT

    return max(1, min(IN_FLIGHT, rows // (4 * workers)))


def _pieces(rows: Iterable[Row], first: int, size: int) -> Iterator[Piece]:
    rest = iter(rows)
    while piece := list(itertools.islice(rest, size)):
        yield Piece(first, piece)
        first += len(piece)


@dataclass
class _Worker:
    actor: Any
    flying: dict[Any, Piece] = field(default_factory=dict)  # by what `answer` will return
    beginning: Any = None  # what `begin` will return; None: it has begun


class _Pool:
    """The workers, and which pieces they have."""

    def __init__(self, job: Answering, share: Share) -> None:
        self._job, self._share = job, share
        self._workers = [self._new() for _ in range(share.workers)]
        self._waiting: deque[Piece] = deque()  # those of lost workers
        self._early_losses = 0

    def answered(self, pieces: Iterator[Piece], progress: Progress) -> Iterator[list[str]]:
        """Yields the lines of each piece, in order."""
        done: dict[int, list[str]] = {}
        order: deque[int] = deque()  # the first rows of pieces that were handed out and not yielded
        looks = 0
        while True:
            self._hand_out(pieces, order)
            if not order:
                return
            flying = [ref for worker in self._workers for ref in (*worker.flying, worker.beginning) if ref]
            ready, _ = ray.wait(flying, timeout=_LOOK_EVERY_S)
            progress.advance(0)
            looks = 0 if ready or any(worker.flying for worker in self._workers) else looks + 1
            if looks == _WAITING_S:
                say(f"waiting for {self._share.cpus} free processors on a machine of the cluster")
            for worker in list(self._workers):
                done |= self._collected(worker, set(ready))
            while order and order[0] in done:
                yield done.pop(order.popleft())

    def _hand_out(self, pieces: Iterator[Piece], order: deque[int]) -> None:
        most = _WINDOW * self._share.workers
        for worker in self._workers:
            while worker.beginning is None and len(worker.flying) < _AT_ONCE:
                if self._waiting:
                    piece = self._waiting.popleft()
                elif len(order) < most and (new := next(pieces, None)) is not None:
                    order.append(new.first)
                    piece = new
                else:
                    break
                worker.flying[worker.actor.answer.remote(piece.first, piece.rows)] = piece
        # without a worker that has begun, the first piece is only looked at: whether there is any
        if not order and (new := next(pieces, None)) is not None:
            order.append(new.first)
            self._waiting.append(new)

    def _collected(self, worker: _Worker, ready: set[Any]) -> dict[int, list[str]]:
        """What a worker has finished, by the first row of the piece."""
        found = {}
        try:
            if worker.beginning in ready:
                ray.get(worker.beginning)
                worker.beginning, self._early_losses = None, 0
            for ref in [ref for ref in worker.flying if ref in ready]:
                found[worker.flying[ref].first] = ray.get(ref)
                del worker.flying[ref]
        except RayTaskError as error:
            if isinstance(error.cause, PtuneError):
                raise error.cause from None
            raise
        except RayError as error:  # of the worker or its machine
            self._lost(worker, error)
        return found

    def _lost(self, worker: _Worker, error: RayError) -> None:
        """Puts another worker in the place of a lost one. Raises: PtuneError if that happens again and again."""
        pieces = sorted(worker.flying.values(), key=lambda piece: piece.first)
        rows = sum(len(piece.rows) for piece in pieces)
        self._early_losses += worker.beginning is not None
        for piece in pieces:
            piece.losses += 1
        worst = max(pieces, key=lambda piece: piece.losses, default=None)
        if self._early_losses >= MOST_LOSSES or (worst is not None and worst.losses >= MOST_LOSSES):
            what = "loaded the bundle" if worst is None else f"answered rows from {worst.first + 1} on"
            reason = (str(error).splitlines() or [""])[0]
            raise PtuneError(f"{MOST_LOSSES} workers were lost while they {what}: {reason}")
        say(f"a worker was lost; {rows} rows will be answered again")
        ray.kill(worker.actor)
        self._waiting.extendleft(reversed(pieces))
        self._workers[self._workers.index(worker)] = self._new()

    def _new(self) -> _Worker:
        options = {"num_cpus": self._share.cpus, "max_concurrency": _AT_ONCE, "scheduling_strategy": "SPREAD"}
        actor = ray.remote(Answerer).options(**options).remote(self._job, os.getcwd())
        return _Worker(actor, beginning=actor.begin.remote())
