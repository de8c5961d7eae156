"""The adapters that an engine serves: read from its bundle or put into memory, kept within a limit, replaced and dropped."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from ptune.engine.adapters.cache import AdapterCache
from ptune.engine.adapters.sums import MOST_SUMS, record_of
from ptune.errors import AdapterError, FormatError, PtuneError, RequestError
from ptune.formats.adapter_sum import AdapterSum, parts_of
from ptune.formats.bundle import BASE, AdapterRecord, Bundle

Served = TypeVar("Served")
Load = Callable[[Path, AdapterRecord], Served]
"""Reads an adapter's folder after its files were checked. Raises: AdapterError where it does not fit."""
Size = Callable[[Path, AdapterRecord], int]
"""Bytes that an adapter will take in memory."""
Combine = Callable[[str, Sequence[tuple[Served, float]]], Served]
"""Makes the sum of adapters with factors, under a name. Raises: AdapterError for what cannot be summed."""
Ready = Callable[[Served | PtuneError], None]
"""Callback: receives the loaded adapter, or the error."""
Parts = list[tuple[AdapterRecord, float]]
"""The parts of a sum and their factors; an adapter by itself is one part with factor 1."""
PROMPT = ("own_prompt", "template", "system", "defaults")
"""Fields of a record that say how conversations are written."""


@dataclass(frozen=True, slots=True)
class AdapterStats:
    """Adapters in memory at one moment; hits, loads, their time and evictions count from the engine's start."""

    bytes: int
    limit_bytes: int | None
    in_memory: int
    hits: int  # requests whose adapter was in memory
    loads: int  # from disk
    load_s: float  # total time of these
    evictions: int = 0  # adapters that made room for others
    names: tuple[str, ...] = ()  # in memory, the most recently used first
    wanted: tuple[str, ...] = ()  # being read, or waiting to be
    served: int = 0  # in memory or not


class Registry(Generic[Served]):
    """Adapters of a bundle by name, each as an engine holds it. All methods may be called from any thread.

    load, size: read an adapter's folder for the engine, and predict its memory.
    changed: the engine's own lock (reentrant), so that it can look an adapter up and queue a request in one piece.
    base_answers: whether clients may ask for the bare base; only messages depend on it.
    limit_bytes: memory for adapters; the least recently used are evicted, and read again when they are asked for.
    combine: where names may also mean sums of adapters (`ptune.formats.adapter_sum`). A sum is kept like an adapter.
    guarded: runs the thread that reads adapters.
    """

    def __init__(
        self,
        bundle: Bundle,
        load: Load[Served],
        size: Size,
        changed: threading.Condition,
        *,
        base_answers: bool,
        limit_bytes: int | None = None,
        combine: Combine[Served] | None = None,
        guarded: Callable[[Callable[[], None]], None] = lambda run: run(),
    ) -> None:
        self._combine, self._guarded = combine, guarded
        self.bundle = bundle  # as of the last load or refresh
        self._load, self._size, self._changed, self._base_answers = load, size, changed, base_answers
        self._cache: AdapterCache[Served] = AdapterCache(limit_bytes)
        self._records: dict[str, AdapterRecord] = {}
        self._put: dict[str, int] = {}  # bytes of adapters that were put into memory, and are in no file
        self._versions: dict[str, int] = {}  # how often a name was put
        self._wanted: dict[str, list[Ready[Served]]] = {}  # in the order in which they will be read
        self._hits = self._loads = 0
        self._load_s = 0.0
        self._reader: threading.Thread | None = None
        self._closed = False

    @property
    def names(self) -> list[str]:
        """Names of the adapters that are served, in memory or not; the base is not among them."""
        with self._changed:
            return list(self._records)

    @property
    def in_memory(self) -> list[str]:
        with self._changed:
            return self._cache.names

    def stats(self) -> AdapterStats:
        with self._changed:
            cache = self._cache
            return AdapterStats(
                cache.bytes,
                cache.limit_bytes,
                len(cache.names),
                self._hits,
                self._loads,
                self._load_s,
                cache.evicted,
                tuple(reversed(cache.names)),
                tuple(self._wanted),
                len(self._records),
            )

    def load(self, name: str) -> None:
        """Serves an adapter of the bundle, also one that was added to it since; one of that name is replaced.

        It is read, so that what is wrong with it is found now, and stays in memory where there is room.
        Raises: FormatError where the bundle has none or its files are damaged; AdapterError where it does not fit.
        """
        bundle = Bundle.open(self.bundle.folder)
        record, size_bytes = self._checked(bundle, name)
        served = self._read(bundle, record)
        with self._changed:
            self.bundle = bundle
            self._records[name] = record
            self._put.pop(name, None)
            for other in self._with(name):
                self._cache.drop(other)
            if self._cache.make_room(size_bytes):
                self._cache.put(name, served, size_bytes)

    def put(self, record: AdapterRecord, served: Served, size_bytes: int) -> int:
        """Serves an adapter that is in no file; one of that name is replaced. It stays in memory until it is dropped.

        Whoever holds the one before keeps it; whoever waits for it gets this one. The prompt stays that of the one before.
        Returns how often the name was put.
        Raises: AdapterError where there is no room for it.
        """
        name = record.name
        with self._changed:
            self._check_size(name, size_bytes)
            if not self._cache.make_room(size_bytes, instead_of=name):
                raise AdapterError(
                    f"adapter {name!r} takes {size_bytes} bytes of memory, and {self._cache.bytes} of"
                    f" {self._cache.limit_bytes} are in use by requests: put it when some of these have ended"
                )
            for other in self._with(name):
                self._cache.drop(other)
            before = self._records.get(name)
            prompt = {} if before is None else {field: getattr(before, field) for field in PROMPT}
            self._records[name], self._put[name] = record.model_copy(update=prompt), size_bytes
            self._versions[name] = self._versions.get(name, 0) + 1
            self._cache.put(name, served, size_bytes, pinned=True)
            for ready in self._wanted.pop(name, ()):
                ready(self._retain(name))
            self._changed.notify_all()
            return self._versions[name]

    def load_all(self) -> None:
        """Serves all adapters that the bundle names: reads as many as there is room for, checks the files of the others.

        Raises: as `load`.
        """
        for name in self.bundle.manifest.adapters:
            record, size_bytes = self._checked(self.bundle, name)
            if self._cache.fits(size_bytes):
                self._cache.put(name, self._read(self.bundle, record), size_bytes)
            else:
                _check_files(self.bundle, record)
            with self._changed:
                self._records[name] = record

    def refresh(self) -> None:
        """Reads the bundle's manifest again. Raises: FormatError."""
        bundle = Bundle.open(self.bundle.folder)
        with self._changed:
            self.bundle = bundle

    def record(self, name: str) -> AdapterRecord | None:
        """Returns an adapter's record, or a sum's; None for the bare base.

        Raises: RequestError: 404 where there is no such adapter; 400 for a sum that cannot be served.
        """
        if name == BASE:
            return None
        with self._changed:
            parts = self._parts(name)
            records = [record for record, _ in parts]
            if not parts:
                known = ", ".join([*([BASE] if self._base_answers else []), *self._records]) or "none"
                message = f"no adapter {name!r} here; served: {known}"
                raise RequestError(message, param="model", code="model_not_found", status=404)
            if _is_plain(parts):
                return records[0]
            found = AdapterSum(tuple((record.name, factor) for record, factor in parts))
            return record_of(found, records, max(record.rank for record in self._records.values()))

    def take(self, name: str, ready: Ready[Served]) -> None:
        """Gives an adapter to `ready`: at once where it is in memory, else from another thread when it has been read.

        It is read once for all who ask, and stays in memory until each of them has given it back.
        `ready` is called under the lock; it gets an error where the adapter cannot be read or was dropped meanwhile.
        Raises: RequestError, 404, where there is none of that name.
        """
        with self._changed:
            record = self.record(name)
            assert record is not None
            name = record.name  # the one way to write a sum
            served = self._cache.take(name)
            if served is not None:
                self._hits += 1
                ready(served)
                return
            if name not in self._records and name not in self._wanted:
                self._require_room_for_a_sum()
            self._wanted.setdefault(name, []).append(ready)
            if self._reader is None:
                self._reader = threading.Thread(
                    target=self._guarded, args=(self._run,), name="ptune-adapters", daemon=True
                )
                self._reader.start()
            self._changed.notify_all()

    def give_back(self, served: Served) -> None:
        """Ends one use of an adapter."""
        with self._changed:
            self._cache.give_back(served)
            self._changed.notify_all()

    def drop(self, name: str) -> None:
        """Forgets an adapter; requests that hold it finish. Raises: RequestError: 404, 400 for the base or a sum."""
        with self._changed:
            if self.record(name) is None or name not in self._records:
                what = "the base" if name == BASE else f"{name!r}, a sum of adapters,"
                raise RequestError(f"{what} cannot be dropped", param="model")
            for other in self._with(name):
                self._cache.drop(other)
                for ready in self._wanted.pop(other, ()):
                    ready(RequestError(f"adapter {name!r} was dropped", code="model_not_found", status=404))
            del self._records[name]
            self._put.pop(name, None)
            self._changed.notify_all()

    def close(self) -> None:
        """Reads nothing more. May be called twice."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._reader is not None:
            self._reader.join()

    def _run(self) -> None:
        """The reader's thread: one adapter after the other, in the order in which they were asked for."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._wanted)
                if self._closed:
                    return
                name = next(iter(self._wanted))
                bundle, parts = self.bundle, self._parts(name)
            try:
                self._load_wanted(bundle, name, parts)
            except Exception as error:
                with self._changed:
                    if not _same(parts, self._parts(name)):
                        continue  # what could not be read is not what is wanted now
                logging.getLogger(__name__).error("adapter %r cannot be read: %s", name, error)
                known = error if isinstance(error, PtuneError) else PtuneError(f"{name}: {error}")
                with self._changed:
                    for ready in self._wanted.pop(name, ()):
                        ready(known)

    def _load_wanted(self, bundle: Bundle, name: str, parts: Parts) -> None:
        """Reads an adapter, or the parts of a sum, as soon as there is room, and passes it to everyone waiting for it."""
        size_bytes = sum(self._size_of(bundle, record) for record, _ in parts)

        def settled() -> bool:
            if self._closed or name not in self._wanted:
                return True
            self._check_size(name, size_bytes)
            return self._cache.make_room(size_bytes)

        with self._changed:
            self._changed.wait_for(settled)
            if self._closed or name not in self._wanted:
                return
            self._cache.reserve(size_bytes)
        served = None
        try:
            served = self._made(bundle, name, parts)
        finally:
            with self._changed:
                self._cache.release(size_bytes)
                if served is not None and _same(parts, self._parts(name)):  # neither dropped nor replaced
                    self._cache.put(name, served, size_bytes)
                    for ready in self._wanted.pop(name, ()):
                        ready(self._retain(name))

    def _retain(self, name: str) -> Served:
        served = self._cache.take(name)
        assert served is not None
        return served

    def _parts(self, name: str) -> Parts:
        """The adapters that a name stands for, with their factors; none where it stands for nothing."""
        if self._combine is None:
            return [(self._records[name], 1.0)] if name in self._records else []
        return [(self._records[part], factor) for part, factor in parts_of(name, self._records)]

    def _with(self, name: str) -> list[str]:
        """An adapter, and the sums that it is a part of, in memory or waited for."""
        others = {*self._cache.names, *self._wanted} - self._records.keys()
        return [name, *(other for other in others if any(one.name == name for one, _ in self._parts(other)))]

    def _require_room_for_a_sum(self) -> None:
        """Raises: RequestError, 429, where there are as many sums as may be, and all are used."""
        kept = {*self._cache.names} - self._records.keys()
        waited = self._wanted.keys() - self._records.keys()
        if len(kept) + len(waited) >= MOST_SUMS and not self._cache.evict_one_of(kept):
            message = (
                f"{MOST_SUMS} sums of adapters are in use, the most there may be at once: try again later"
            )
            raise RequestError(message, param="model", code="too_many_sums", status=429)

    def _made(self, bundle: Bundle, name: str, parts: Parts) -> Served:
        """Reads an adapter, or makes a sum of its parts, of which those in memory are not read again."""
        if _is_plain(parts) or self._combine is None:
            return self._read(bundle, parts[0][0])
        with self._changed:
            found = {record.name: self._cache.take(record.name) for record, _ in parts}
        try:
            return self._combine(
                name,
                [
                    (self._read(bundle, record) if (kept := found[record.name]) is None else kept, factor)
                    for record, factor in parts
                ],
            )
        finally:
            for kept in found.values():
                if kept is not None:
                    self.give_back(kept)

    def _checked(self, bundle: Bundle, name: str) -> tuple[AdapterRecord, int]:
        """A record that may be served, and the adapter's size in memory."""
        record, base = bundle.adapter(name), bundle.manifest.base.hash
        if record.base is not None and record.base != base:
            raise AdapterError(
                f"adapter {name!r} was trained on another base ({record.base}) than this ({base})"
            )
        size_bytes = self._size(bundle.adapter_path(name), record)
        self._check_size(name, size_bytes)
        return record, size_bytes

    def _size_of(self, bundle: Bundle, record: AdapterRecord) -> int:
        """Bytes of a part of a sum, or of an adapter by itself."""
        with self._changed:
            found = self._put.get(record.name)
        return self._size(bundle.adapter_path(record.name), record) if found is None else found

    def _check_size(self, name: str, size_bytes: int) -> None:
        """Raises: AdapterError where there never is room for it beside what cannot be evicted."""
        with self._changed:
            limit_bytes, pinned_bytes = self._cache.limit_bytes, self._cache.pinned_bytes(but=name)
        if limit_bytes is not None and size_bytes + pinned_bytes > limit_bytes:
            pinned = f", of which {pinned_bytes} are of adapters that were put" if pinned_bytes else ""
            raise AdapterError(
                f"adapter {name!r} takes {size_bytes} bytes of memory; all together may take {limit_bytes}{pinned}"
            )

    def _read(self, bundle: Bundle, record: AdapterRecord) -> Served:
        begun_s = time.perf_counter()
        _check_files(bundle, record)
        served = self._load(bundle.adapter_path(record.name), record)
        with self._changed:
            self._loads += 1
            self._load_s += time.perf_counter() - begun_s
        return served


def _is_plain(parts: Parts) -> bool:
    """Whether it is one adapter as it is."""
    return len(parts) == 1 and parts[0][1] == 1


def _same(one: Parts, other: Parts) -> bool:
    """Whether these are the very same adapters: records of two versions may be equal."""
    return [(id(record), factor) for record, factor in one] == [
        (id(record), factor) for record, factor in other
    ]


def _check_files(bundle: Bundle, record: AdapterRecord) -> None:
    """Raises: FormatError where a file of an adapter is missing or not what it was."""
    files = {f"adapters/{record.name}/{file}": digest for file, digest in record.files.items()}
    try:
        bundle.check_files(files)
    except OSError as error:
        raise FormatError(f"{bundle.adapter_path(record.name)} cannot be read: {error.strerror}") from None
