"""The answers of one batch on disk, and what they come to: which lines are done, counts, tokens."""

from __future__ import annotations

from functools import partial
from typing import Any

from ..files.lines import Line, json_line
from ..files.store import FileStore
from .ask import Answer
from .batch import Batch, BatchUsage
from .journal import Journal

EXPIRED = "batch_expired"


class Answers:
    """The results and failures of a batch. Methods are called from one thread."""

    def __init__(self, files: FileStore, batch: Batch) -> None:
        """Opens both files, and counts what they hold. Raises: OSError."""
        self.done: set[int] = set()  # numbers of lines
        self.expired = False  # whether a line was not answered in time
        self._files, self._batch = files, batch
        batch.completed, batch.failed, batch.usage = 0, 0, BatchUsage()
        self._ids = (batch.results_id, batch.failures_id)
        self._journals = [
            Journal(files.content(file_id), partial(self._seen, failed=bool(failed)))
            for failed, file_id in enumerate(self._ids)
        ]
        for file_id, journal in zip(self._ids, self._journals, strict=True):
            files.space.count(batch.key, file_id, journal.size_bytes)

    def add(self, entry: dict[str, Any], *, failed: bool) -> None:
        """Writes the answer to a line. Raises: OSError, RequestError if there is no room; nothing is written then."""
        raw, journal, file_id = json_line(entry), self._journals[failed], self._ids[failed]
        self._files.space.take(self._batch.key, file_id, journal.size_bytes + len(raw))
        journal.append(raw)
        self._seen(entry, failed=failed)

    def published(self) -> tuple[str | None, str | None]:
        """Makes the files of results and of failures known to their key; None for one that is empty, and removed.

        Raises: RequestError(507).
        """
        return self._published(failed=False), self._published(failed=True)

    def _published(self, *, failed: bool) -> str | None:
        file_id = self._ids[failed]
        if not self._journals[failed].size_bytes:
            self._files.discard(file_id)
            return None
        name = f"{self._batch.id}_{'error' if failed else 'output'}.jsonl"
        self._files.describe(self._batch.key, file_id, name, "batch_output", self._batch.outputs_kept_s)
        return file_id

    def _seen(self, entry: dict[str, Any], *, failed: bool) -> bool:
        """Counts a line of one of the files; whether it is a new one of this batch."""
        head, _, number = str(entry.get("id")).rpartition("_")
        if head != _head(self._batch) or not number.isdecimal() or int(number) in self.done:
            return False
        self.done.add(int(number))
        if failed:
            self._batch.failed += 1
            self.expired |= (entry["error"] or {}).get("code") == EXPIRED
        else:
            self._batch.completed += 1
            self._batch.usage.add(entry["response"]["body"].get("usage") or {})
        return True


def request_id_of(batch: Batch, line: Line) -> str:
    """The id of the request that a line is: always the same, so that its answer is known again after a restart."""
    return f"{_head(batch)}_{line.number}"


def answered(batch: Batch, line: Line, answer: Answer) -> dict[str, Any]:
    """What is written for a line that was answered, well or not."""
    request_id = request_id_of(batch, line)
    response = {"status_code": answer.status, "request_id": request_id, "body": answer.body}
    return {"id": request_id, "custom_id": line.custom_id, "response": response, "error": None}


def expired(batch: Batch, line: Line) -> dict[str, Any]:
    """What is written for a line that was not answered in time."""
    message = f"the batch's completion window of {batch.completion_window} was over before this request was answered"
    error = {"code": EXPIRED, "message": message}
    return {"id": request_id_of(batch, line), "custom_id": line.custom_id, "response": None, "error": error}


def _head(batch: Batch) -> str:
    return f"batch_req_{batch.id.removeprefix('batch_')}"
