"""Loads bundles when they are asked for, one at a time, and unloads them: idle ones, or those that make room."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from ptune.errors import PtuneError, RequestError

from .loaded import LoadedBundle, give_memory_back
from .table import Entry, Table, Why
from .threads import Threads

MAX_WAITING = 256
"""Most requests that wait for one bundle to be loaded; further ones are refused."""
FAILED_FOR_S = 30.0
"""How long a bundle that could not be loaded is not tried again."""
CLOSE_LIMIT_S = 10.0
"""How long a model may take to close; one that takes longer has a step that hangs, and is left behind."""

Result = TypeVar("Result")
Load = Callable[[str], LoadedBundle]
"""Opens a bundle, by its name, on a thread. Raises: PtuneError."""
_log = logging.getLogger("ptune.serve")


class Beside(Protocol):
    """Runs functions beside the event loop."""

    async def run(self, work: Callable[[], Result], /) -> Result: ...
    def join(self) -> None: ...


@dataclass
class _Loading:
    """A load that is to come or is running."""

    task: asyncio.Task[None] | None = None
    begun: bool = False  # whether its turn has come: it is not given up any more
    waiting: int = 0  # requests


@dataclass
class _Life:
    """What the event loop knows of a bundle beside the table."""

    loading: _Loading | None = None
    failure: str = ""  # why it could not be loaded the last time
    failed_s: float = 0.0
    idle_s: float | None = None  # how long it stays after its last request, if that said so
    timer: asyncio.TimerHandle | None = None
    leaving: set[asyncio.Task[None]] = field(default_factory=set)


class Bundles:
    """The bundles of a server. Methods are called on one event loop, but for `close`.

    load: opens one. idle_s: how long each stays after its last request; 0 = until others need its room.
    reserved: what each may take beyond what it takes once it is loaded, in bytes. measured: memory of the process, if the
    system tells.
    """

    def __init__(
        self,
        table: Table,
        load: Load,
        idle_s: Mapping[str, float],
        *,
        reserved: Callable[[str], int] = lambda name: 0,
        measured: Callable[[], int | None] = lambda: None,
        beside: Beside | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.table = table
        self._load, self._idle_s, self._reserved = load, idle_s, reserved
        self._measured, self._clock = measured, clock
        self._beside = beside or Threads("ptune-bundles")
        self._hanging: dict[str, LoadedBundle] = {}  # models that do not close
        self._moving = asyncio.Lock()  # one bundle at a time goes in or out, so that memory can be counted
        self._lives = {entry.name: _Life() for entry in table}

    @contextlib.asynccontextmanager
    async def using(self, name: str, idle_s: float | None = None) -> AsyncIterator[LoadedBundle]:
        """A bundle, for one request: it is loaded first if it is not, and stays while the block runs.

        idle_s: how long it stays afterwards, instead of what the server says; 0 = not at all, inf = until others need room.
        Raises: RequestError: 429 if too many wait; 503 if there is no room, or it cannot be loaded.
        """
        entry, life = self.table[name], self._lives[name]
        if life.loading is not None and life.loading.waiting >= MAX_WAITING:
            message = (
                f"{life.loading.waiting} requests wait for bundle {name!r} to be loaded; try again later"
            )
            raise RequestError(message, code="queue_full", status=429)
        self.table.enter(entry)
        self._stop_timer(life)
        try:
            yield entry.loaded or await self._loaded(entry)
        finally:
            life.idle_s = idle_s
            self.table.leave(entry)
            self._wait_until_idle(entry)

    @contextlib.asynccontextmanager
    async def while_loaded(self, name: str) -> AsyncIterator[LoadedBundle]:
        """A bundle that is loaded now, and stays while the block runs. Raises: RequestError(503) if it is not."""
        if self.loaded(name) is None:
            raise RequestError(f"bundle {name!r} was unloaded", code="not_loaded", status=503)
        async with self.using(name) as loaded:
            yield loaded

    def loaded(self, name: str) -> LoadedBundle | None:
        """A bundle if it is loaded now."""
        return self.table[name].loaded

    def in_memory(self) -> list[tuple[str, LoadedBundle]]:
        """All bundles that are loaded, and those that do not close. May be called from any thread."""
        loaded = [(entry.name, entry.loaded) for entry in self.table]
        return [(name, one) for name, one in loaded if one is not None] + list(self._hanging.items())

    async def unload(self, name: str) -> None:
        """Unloads a bundle, if it is loaded. Raises: RequestError(409) if requests use it."""
        entry = self.table[name]
        async with self._moving:
            if entry.users:
                message = (
                    f"{entry.users} requests use bundle {name!r}: it can be unloaded when they have ended"
                )
                raise RequestError(message, code="in_use", status=409)
            if entry.idle:
                await self._unload(entry, "asked")

    def why_not(self, name: str) -> str:
        """Why a bundle could not be loaded the last time; empty if it could."""
        return self._lives[name].failure

    def idle_until_s(self, name: str) -> float | None:
        """In how many seconds a loaded bundle will be unloaded if nobody asks for it; None = not for being idle."""
        timer = self._lives[name].timer
        if timer is not None:
            return max(0.0, timer.when() - asyncio.get_running_loop().time())
        return self._stays_s(name) if self.table[name].users else None

    def close(self) -> None:
        """Closes all models, when the event loop has ended. Does not return while one hangs."""
        self._beside.join()
        for entry in self.table:
            if entry.loaded is not None:
                entry.loaded.model.close()
        for loaded in self._hanging.values():
            loaded.model.close()

    async def _loaded(self, entry: Entry) -> LoadedBundle:
        """Waits until a bundle is loaded. Raises: RequestError."""
        life = self._lives[entry.name]
        while entry.loaded is None:
            if life.failure and self._clock() < life.failed_s + FAILED_FOR_S:
                raise _failed(entry.name, life.failure)
            if life.loading is None:
                life.loading = _Loading()
                life.loading.task = asyncio.create_task(self._bring_in(entry, life.loading))
                life.loading.task.add_done_callback(_look_at)
            await self._until(life, life.loading)
        return entry.loaded

    async def _until(self, life: _Life, loading: _Loading) -> None:
        """Waits for a load. The last who goes before its turn has come takes it along. Raises: RequestError."""
        assert loading.task is not None
        loading.waiting += 1
        try:
            await asyncio.shield(loading.task)
        finally:
            loading.waiting -= 1
            if not loading.waiting and not loading.begun and life.loading is loading:
                life.loading = None
                loading.task.cancel()

    async def _bring_in(self, entry: Entry, loading: _Loading) -> None:
        """Loads a bundle when its turn comes. Raises: RequestError."""
        async with self._moving:
            loading.begun = True
            try:
                if entry.name in self._hanging:
                    raise _failed(
                        entry.name, "a step of its engine hangs since it was unloaded: restart the server"
                    )
                await self._make_room(entry, entry.needed_bytes)
                if entry.users:  # otherwise everybody has gone while others made room
                    await self._open(entry)
            finally:
                self._lives[entry.name].loading = None

    async def _make_room(self, entry: Entry, more_bytes: int) -> None:
        """Unloads what is idle until so many bytes more fit. Raises: RequestError(503)."""
        while (idle := self.table.next_to_go(entry, more_bytes)) is not None:
            await self._unload(idle, "room")

    async def _open(self, entry: Entry) -> None:
        life, started_s, before = self._lives[entry.name], self._clock(), self._measured()
        entry.state, life.failure = "loading", ""
        try:
            loaded = await self._beside.run(lambda: self._load(entry.name))
        except Exception as error:
            life.failure, life.failed_s = _why(entry.name, error), self._clock()
        if life.failure:  # raised here, where it does not keep alive what the load has left behind
            entry.state = "unloaded"
            entry.failures += 1
            failure = _failed(entry.name, life.failure)
            _log.error("%s", failure)
            raise failure
        await self._count(entry, loaded, before)
        entry.loaded, entry.state = loaded, "loaded"
        entry.loads += 1
        entry.load_s += self._clock() - started_s
        self._wait_until_idle(entry)  # where they have all gone meanwhile

    async def _count(self, entry: Entry, loaded: LoadedBundle, before: int | None) -> None:
        """Puts what a bundle takes in place of what was predicted. Raises: RequestError(503) if that does not fit."""
        after = self._measured()
        if before is None or after is None:
            return
        needed_bytes = max(0, after - before) + self._reserved(entry.name)
        if entry.measured:  # a later load may find memory that an earlier one has left, and look smaller
            needed_bytes = max(needed_bytes, entry.needed_bytes)
        try:
            await self._make_room(entry, needed_bytes - entry.needed_bytes)
        except RequestError:
            await self._end(entry, loaded)
            raise
        finally:
            entry.needed_bytes, entry.measured = needed_bytes, True

    async def _unload(self, entry: Entry, why: Why) -> None:
        """Unloads an idle bundle. Called by who moves bundles now."""
        loaded, entry.loaded, entry.state = entry.loaded, None, "unloading"
        assert loaded is not None
        self._stop_timer(self._lives[entry.name])
        entry.unloads[why] += 1
        ended = await self._end(entry, loaded)
        del loaded
        if ended:
            await self._beside.run(give_memory_back)

    async def _end(self, entry: Entry, loaded: LoadedBundle) -> bool:
        """Closes a model; whether it is closed. The bundle of one that does not close still takes its memory, and is not loaded again."""
        entry.state = "unloading"
        closing = asyncio.ensure_future(self._beside.run(loaded.model.close))
        done, _ = await asyncio.wait({closing}, timeout=CLOSE_LIMIT_S)
        if not done:
            _log.error("bundle %s does not end within %s s and is left behind", entry.name, CLOSE_LIMIT_S)
            self._hanging[entry.name] = loaded
            return False
        if (error := closing.exception()) is not None:
            _log.error("closing bundle %s failed", entry.name, exc_info=error)
        entry.state = "unloaded"
        return True

    def _stays_s(self, name: str) -> float | None:
        """How long a bundle stays without requests; None = until others need its room."""
        chosen = self._lives[name].idle_s
        if chosen is not None:
            return None if chosen == float("inf") else chosen
        return self._idle_s[name] or None

    def _wait_until_idle(self, entry: Entry) -> None:
        """Unloads a bundle that nobody uses, when its time is over."""
        stays_s, life = self._stays_s(entry.name), self._lives[entry.name]
        if entry.idle and stays_s is not None:
            self._stop_timer(life)
            life.timer = asyncio.get_running_loop().call_later(stays_s, self._time_over, entry)

    def _time_over(self, entry: Entry) -> None:
        life = self._lives[entry.name]
        life.timer = None
        task = asyncio.create_task(self._unload_if_idle(entry, entry.used))
        life.leaving.add(task)
        task.add_done_callback(life.leaving.discard)

    async def _unload_if_idle(self, entry: Entry, used: int) -> None:
        async with self._moving:
            if entry.idle and entry.used == used:
                await self._unload(entry, "idle")

    def _stop_timer(self, life: _Life) -> None:
        if life.timer is not None:
            life.timer.cancel()
            life.timer = None


def _look_at(task: asyncio.Task[None]) -> None:
    """Takes note of a load's error, also where everybody who waited for it has gone."""
    if not task.cancelled():
        task.exception()


def _failed(name: str, why: str) -> RequestError:
    return RequestError(
        f"bundle {name!r} cannot be loaded: {why}", param="model", code="bundle_failed", status=503
    )


def _why(name: str, error: Exception) -> str:
    """Why a bundle could not be loaded, in a sentence. Unexpected errors are told by the log alone."""
    if isinstance(error, PtuneError):
        return str(error)
    if isinstance(error, MemoryError):
        return "it does not fit into memory"
    _log.error("loading bundle %s failed", name, exc_info=error)
    return "the server's log says why"
