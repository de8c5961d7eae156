"""Batches of API keys on disk: one JSON file each in `batches/`, written whole at every change of status."""

from __future__ import annotations

import threading
import uuid
from pathlib import Path
from typing import Any

from ptune.errors import RequestError
from ptune.formats.whole_write import write_text

from ..files.store import FileStore, new_id, private_folder, read_kept, storing
from ..files.stored_file import KEPT_S
from .batch import Batch, Status
from .schemas import BatchRequest

MAX_UNFINISHED = 100
"""Batches of one key that have not ended."""
MAX_BATCHES = 10_000
"""Of one key. Beyond that, those that ended are forgotten, the oldest first; their files stay."""


class BatchStore:
    """The batches of all keys. Methods may be called from any thread; they raise RequestError."""

    def __init__(self, files: FileStore) -> None:
        self.files = files
        self._folder = files.folder / "batches"
        private_folder(self._folder)
        self._batches: dict[str, Batch] = {}
        self._changing = threading.Lock()
        for path in self._folder.glob("*.json"):
            if (batch := read_kept(path, Batch, "batch")) is not None:
                self._batches[batch.id] = batch
        for batch in self.unfinished():
            files.hold(batch.input_file_id)
        files.sweep({id_ for batch in self.unfinished() for id_ in (batch.results_id, batch.failures_id)})

    def create(self, key: str, request: BatchRequest) -> Batch:
        """A new batch of a file. Raises: RequestError: 404; 429 if too many have not ended; 507."""
        with self.files.found(key, request.input_file_id) as file:
            waiting = sum(batch.key == key for batch in self.unfinished())
            if waiting >= MAX_UNFINISHED:
                message = f"{waiting} batches of this key have not ended; wait for one, or cancel one"
                raise RequestError(message, code="too_many_batches", status=429)
            now_s = self.files.clock()
            batch = Batch(
                id=f"batch_{uuid.uuid4().hex}",
                key=key,
                endpoint=request.endpoint,
                input_file_id=file.id,
                completion_window=request.completion_window,
                created_s=now_s,
                expires_s=now_s + request.window_s,
                results_id=new_id(),
                failures_id=new_id(),
                outputs_kept_s=request.outputs_kept_s,
                metadata=request.metadata,
            )
            self.save(batch)
            self.files.hold(file.id)
        with self._changing:
            self._batches[batch.id] = batch
        self._forget(key)
        return batch

    def find(self, key: str, batch_id: str) -> Batch:
        """A batch of this key. Raises: RequestError(404)."""
        with self._changing:
            batch = self._batches.get(batch_id)
        if batch is None or batch.key != key:
            message = f"no batch {batch_id[:80]!r} is kept here for this key"
            raise RequestError(message, param="batch_id", code="not_found", status=404)
        return batch

    def of_key(self, key: str) -> list[Batch]:
        """The batches of a key, newest first."""
        self._forget(key)
        with self._changing:
            found = [batch for batch in self._batches.values() if batch.key == key]
        return sorted(found, key=lambda batch: (batch.created_s, batch.id), reverse=True)

    def unfinished(self) -> list[Batch]:
        """The batches that have not ended, oldest first."""
        with self._changing:
            found = [batch for batch in self._batches.values() if not batch.ended]
        return sorted(found, key=lambda batch: (batch.created_s, batch.id))

    def enter(self, batch: Batch, status: Status, **facts: Any) -> None:
        """Gives a batch its next status, and what is known with it, on disk first.

        Raises: RequestError(507), and the batch is as before.
        """
        facts |= {"status": status, "reached_s": {**batch.reached_s, status: self.files.clock()}}
        self.save(batch.model_copy(update=facts))
        for name, value in facts.items():
            setattr(batch, name, value)
        if batch.ended:
            self.files.release(batch.input_file_id)

    def save(self, batch: Batch) -> None:
        """Writes a batch. Raises: RequestError(507)."""
        with storing():
            write_text(self._path(batch.id), batch.model_dump_json() + "\n")

    def _forget(self, key: str) -> None:
        """Forgets batches that ended long ago, or are too many."""
        old_s = self.files.clock() - KEPT_S
        with self._changing:
            ended = [batch for batch in self._batches.values() if batch.key == key and batch.ended]
            ended.sort(key=lambda batch: batch.created_s, reverse=True)
            for place, batch in enumerate(ended):
                if place >= MAX_BATCHES or max(batch.reached_s.values(), default=0) < old_s:
                    del self._batches[batch.id]
                    self._path(batch.id).unlink(missing_ok=True)

    def _path(self, batch_id: str) -> Path:
        return self._folder / f"{batch_id}.json"
