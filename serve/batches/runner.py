"""Runs batches beside the server's other requests, and goes on with those that a restart has interrupted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any, TypeVar

from ptune.errors import RequestError

from ..files.disk_space import NO_ROOM
from ..files.lines import InputLines, Line, LineError, read_again
from ..http.request_log import log_failure
from .answers import Answers, answered, expired, request_id_of
from .ask import Answer, Ask
from .batch import ENDED, Batch, BatchError, Status
from .places import Places, pause
from .store import BatchStore

RETRY_S = 5.0
"""Before something that failed for now is tried again: a write to a full disk, a step of the engine."""
LONGEST_WAIT_S = 60.0
BATCHES_OF_KEY = 4  # that run at once; the others of a key wait, as each holds files open
MOST_TRIES = 3  # of a line that the engine fails
MOST_ERRORS = 100  # told of an input file
INPUTS_OF_A_PLACE = 16
CLOSE_LIMIT_S = 10.0

Result = TypeVar("Result")
_log = logging.getLogger("ptune.serve")


class _OfKey:
    """How much of one key's batches runs at once; a batch, or a line, takes a place."""

    def __init__(self, lines: int) -> None:
        self.batches = Places(BATCHES_OF_KEY)
        self.lines = Places(lines)


@dataclass
class _Run:
    """A batch that has not ended. left: set when its requests are to be given up: cancelled, expired, or at the end."""

    batch: Batch
    left: asyncio.Event = field(default_factory=asyncio.Event)
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)  # its status


class BatchRunner:
    """All batches of a server. lines: most that are asked at once. lines_of_key: most of one key, by its name."""

    def __init__(
        self, store: BatchStore, ask: Ask, inputs: InputLines, lines: int, lines_of_key: Callable[[str], int]
    ) -> None:
        self.store = store
        self._ask = ask
        self.inputs = inputs
        self._places = Places(lines)
        self._lines_of_key = lines_of_key
        self._of_key: dict[str, _OfKey] = {}
        self._runs: dict[str, _Run] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = asyncio.Event()
        self._started = False
        # One thread, so that writes follow each other, and not the loop's: a slow disk holds up nobody else.
        self._disk = ThreadPoolExecutor(1, "ptune-batches")

    def start(self) -> None:
        """Goes on with the batches that have not ended. Called on the event loop."""
        self._started = True
        for batch in self.store.unfinished():
            self.begin(batch)

    def begin(self, batch: Batch) -> None:
        """Runs a batch in the background."""
        if self._started:
            run = self._runs[batch.id] = _Run(batch)
            task = asyncio.create_task(self._go_on(run))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def cancel(self, batch: Batch) -> None:
        """Gives up what a batch has not answered yet. Raises: RequestError: 400 if it has ended; 507."""
        run = self._runs.get(batch.id)
        if run is not None:
            async with run.changing:
                if batch.status in ("validating", "in_progress"):
                    await self._on_disk(self.store.enter, batch, "cancelling")
                    run.left.set()
        if batch.status != "cancelling":
            message = f"batch {batch.id!r} is {batch.status}; only one that has not ended can be cancelled"
            raise RequestError(message, param="batch_id", code="invalid_value")

    async def close(self) -> None:
        """Stops where the batches stand."""
        self._closing.set()
        for run in self._runs.values():
            run.left.set()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=CLOSE_LIMIT_S)
            for task in late:
                task.cancel()
        self._disk.shutdown()

    async def _go_on(self, run: _Run) -> None:
        """Takes a batch from where it stands to its end."""
        batch = run.batch
        if batch.key not in self._of_key:
            self._of_key[batch.key] = _OfKey(self._lines_of_key(batch.key))
        places = self._of_key[batch.key].batches
        left_s = max(batch.expires_s - self.store.files.clock(), 0.0)
        timer = asyncio.get_running_loop().call_later(left_s, run.left.set)
        placed = await places.take(1, run.left)
        try:
            await self._take_steps(run)
        except Exception as error:
            log_failure(batch.id, error)
            await self._enter(run, "failed", errors=[_internal(batch)])
        finally:
            places.give(int(placed))
            timer.cancel()
            del self._runs[batch.id]
            if all(other.batch.key != batch.key for other in self._runs.values()):
                del self._of_key[batch.key]

    async def _take_steps(self, run: _Run) -> None:
        batch, facts = run.batch, dict[str, Any]()
        if self._closing.is_set():
            return
        answers = await self._until_it_works(
            batch, partial(asyncio.to_thread, Answers, self.store.files, batch)
        )
        if answers is None:
            return
        if batch.status == "validating":
            facts = await asyncio.to_thread(self._validated, batch)
            if not facts["errors"]:
                await self._enter(run, "in_progress", **facts)
        if batch.status == "in_progress":
            await self._answer_all(run, answers)
        if not self._closing.is_set():
            await self._finish(run, answers, facts)

    def _validated(self, batch: Batch) -> dict[str, Any]:
        """What the input file shows: how many requests, for which model, and what is wrong."""
        total, model, errors = 0, None, list[BatchError]()
        for line in self._lines(batch):
            total += 1
            if isinstance(line, LineError):
                errors.append(
                    BatchError(code=line.code or "", message=str(line), line=line.number, param=line.param)
                )
            elif line.url != batch.endpoint:
                message = (
                    f"line {line.number}: url is {line.url!r}, but the batch's endpoint {batch.endpoint!r}"
                )
                errors.append(
                    BatchError(code="mismatched_endpoint", message=message, line=line.number, param="url")
                )
            elif model is None:
                model = line.body["model"] if isinstance(line.body.get("model"), str) else ""
            if len(errors) == MOST_ERRORS:
                break
        return {"total": total, "model": model or None, "errors": errors}

    async def _answer_all(self, run: _Run, answers: Answers) -> None:
        """Asks for each line that has no answer, until all have one or `left` is set."""
        batch, window = run.batch, self._of_key[run.batch.key].lines
        with closing(self._undone(batch, answers)) as lines:
            async with asyncio.TaskGroup() as tasks:
                while await window.take(1, run.left):
                    line = await self._on_disk(next, lines, None)
                    if line is None:
                        window.give(1)
                        break
                    tasks.create_task(self._answer(run, answers, line, window))
        if batch.status == "in_progress" and not self._closing.is_set():
            # The time is over for what is left.
            with closing(self._undone(batch, answers)) as lines:
                while (line := await self._on_disk(next, lines, None)) is not None:
                    await self._write(run, answers, expired(batch, line), failed=True, until=self._closing)

    async def _answer(self, run: _Run, answers: Answers, line: Line, window: Places) -> None:
        """Asks for one line, again where it was refused for now, and writes what came."""
        try:
            for tries in count(1):
                answer = await self._asked(run, line)
                if answer is None:
                    return
                wait_s = _wait_s(answer, tries)
                if wait_s is None:
                    entry = answered(run.batch, line, answer)
                    await self._write(run, answers, entry, failed=answer.status != 200, until=run.left)
                    return
                if not await pause(wait_s, run.left):
                    return
        finally:
            window.give(1)

    async def _asked(self, run: _Run, line: Line) -> Answer | None:
        """The answer to a line; None if `left` is set first."""
        places = -(-inputs_of(line.body) // INPUTS_OF_A_PLACE)
        if not await self._places.take(places, run.left):
            return None
        try:
            batch = run.batch
            return await self._ask(batch.key, batch.endpoint, line.body, request_id_of(batch, line), run.left)
        finally:
            self._places.give(places)

    async def _write(
        self, run: _Run, answers: Answers, entry: dict[str, Any], *, failed: bool, until: asyncio.Event
    ) -> None:
        """Writes an answer, once the disk takes it, or not at all if `until` is set first."""
        add = partial(self._on_disk, lambda: answers.add(entry, failed=failed))
        await self._until_it_works(run.batch, add, until)

    async def _finish(self, run: _Run, answers: Answers, facts: dict[str, Any]) -> None:
        """Hands over the files of answers, and ends the batch."""
        if run.batch.status == "in_progress" and not answers.expired:
            await self._enter(run, "finalizing")
        publish = partial(self._on_disk, answers.published)
        published = await self._until_it_works(run.batch, publish)
        if published is not None:
            output, failures = published
            facts = {"errors": [], **facts, "output_file_id": output, "error_file_id": failures}
            await self._enter(run, _ENDS[run.batch.status], **facts)

    async def _enter(self, run: _Run, status: Status, **facts: Any) -> None:
        """Gives a batch its next status, once the disk takes it; one that is being cancelled only ends."""

        async def enter() -> None:
            async with run.changing:
                if run.batch.status != "cancelling" or status in ENDED:
                    await self._on_disk(lambda: self.store.enter(run.batch, status, **facts))

        await self._until_it_works(run.batch, enter)

    async def _until_it_works(
        self, batch: Batch, work: Callable[[], Awaitable[Result]], until: asyncio.Event | None = None
    ) -> Result | None:
        """The result of work that writes, once the disk takes it; None if `until`, or the server's end, comes first."""
        while True:
            try:
                result = await work()
            except (OSError, RequestError) as error:
                self._wait_for_disk(batch, error)
                if not await pause(RETRY_S, until or self._closing):
                    return None
            else:
                batch.errors = [error for error in batch.errors if error.code not in _FOR_NOW]
                return result

    def _wait_for_disk(self, batch: Batch, error: Exception) -> None:
        """Says in the batch, and once in the log, that it waits."""
        full = isinstance(error, RequestError) and error.code == NO_ROOM
        why = str(error) if full else "the server's disk is full, or cannot be written"
        if not batch.errors:
            _log.error("batch %s waits until its answers can be written: %s", batch.id, error)
        message = f"waits until its answers can be written: {why}"
        batch.errors = [BatchError(code=NO_ROOM if full else "not_stored", message=message)]

    def _undone(self, batch: Batch, answers: Answers) -> Generator[Line]:
        """The requests that have no answer yet."""
        with self.store.files.content(batch.input_file_id).open("rb") as file:
            for line in read_again(file):
                if line.number not in answers.done:
                    yield line

    def _lines(self, batch: Batch) -> Iterator[Line | LineError]:
        with self.store.files.content(batch.input_file_id).open("rb") as file:
            yield from self.inputs.read(file)

    async def _on_disk(self, work: Callable[..., Result], *given: Any) -> Result:
        """Runs work on the thread that writes."""
        return await asyncio.get_running_loop().run_in_executor(self._disk, work, *given)


_FOR_NOW = (NO_ROOM, "not_stored")  # errors that pass
_ENDS: dict[Status, Status] = {
    "validating": "failed",
    "in_progress": "expired",
    "finalizing": "completed",
    "cancelling": "cancelled",
}


def inputs_of(body: dict[str, Any]) -> int:
    """About how many sequences or texts a request puts into the engine's queue at once."""
    lists = [
        len(body[name])
        for name in ("input", "prompt", "documents", "text")
        if isinstance(body.get(name), list)
    ]
    choices = body["n"] if type(body.get("n")) is int else 1
    return max(1, min(max(lists, default=1) * choices, 128))


def _wait_s(answer: Answer, tries: int) -> float | None:
    """How long to wait before a line is asked again; None if this answer is its answer."""
    if answer.status in (
        401,
        429,
        503,
    ):  # the key is gone, or at its limit; the queue is full; the server shuts down
        return min(LONGEST_WAIT_S if answer.wait_s is None else answer.wait_s, LONGEST_WAIT_S)
    return RETRY_S if answer.status >= 500 and tries < MOST_TRIES else None


def _internal(batch: Batch) -> BatchError:
    return BatchError(
        code="internal_error", message=f"internal error; the server's log has it under {batch.id}"
    )
