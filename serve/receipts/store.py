"""A folder of receipts: a file of JSON lines for each day, each line sealed by the folder's key.

The seal is HMAC-SHA256 (RFC 2104) over the receipt as canonical JSON. Whoever has the key can check it, and could forge it:
it shows that the server's own operator has changed nothing since, not more.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import re
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ptune.errors import FormatError, UsageError

KEY_FILE = "key"
_DAY = re.compile(r"\d{4}-\d\d-\d\d\.jsonl")

_log = logging.getLogger("ptune.serve")


class Receipts:
    """Writes receipts. days: after so many a day's file is deleted.

    Raises: UsageError if the folder cannot be written.
    """

    def __init__(self, folder: Path, days: int) -> None:
        if days < 1:
            raise UsageError(f"--receipt-days must be 1 or more (is {days})")
        self._folder, self._days = folder, days
        self._today = ""
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._key = _key(folder)
        except OSError as error:
            raise UsageError(f"--receipts {folder}: {error.strerror}") from None

    def write(self, receipt: dict[str, Any]) -> None:
        """Appends a receipt. What cannot be written is reported in the log, and answers go on."""
        line = json.dumps({"receipt": receipt, "seal": seal(self._key, receipt)}, ensure_ascii=False)
        day = f"{datetime.now(UTC):%Y-%m-%d}.jsonl"
        try:
            if day != self._today:
                self._begin(day)
            file = os.open(self._folder / day, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(file, line.encode() + b"\n")
            finally:
                os.close(file)
        except OSError as error:
            _log.error("no receipt of request %s: %s", receipt["id"], error.strerror)

    def _begin(self, day: str) -> None:
        """Deletes old files, and ends a line that a killed server left without its end."""
        self._today = day
        oldest = f"{datetime.now(UTC) - timedelta(days=self._days):%Y-%m-%d}.jsonl"
        for path in days_of(self._folder):
            if path.name < oldest:
                path.unlink(missing_ok=True)
        path = self._folder / day
        if not path.is_file() or not path.stat().st_size:
            return
        with path.open("rb+") as file:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")


def find(folder: Path, request_id: str) -> dict[str, Any]:
    """The newest receipt of a request. Raises: FormatError if there is none, or its seal is broken."""
    try:
        key = bytes.fromhex((folder / KEY_FILE).read_text(encoding="ascii"))
    except (OSError, ValueError):
        raise FormatError(f"{folder} has no receipts: its file `{KEY_FILE}` is missing or damaged") from None
    for line in _lines(folder):
        if request_id not in line:
            continue
        try:
            found = json.loads(line)
        except ValueError:  # a server was killed while it wrote this one
            continue
        if found["receipt"]["id"] != request_id:
            continue
        if not hmac.compare_digest(found["seal"], seal(key, found["receipt"])):
            raise FormatError(f"the receipt of {request_id} has been changed since it was written")
        return dict(found["receipt"])
    raise FormatError(f"{folder} has no receipt of request {request_id}")


def seal(key: bytes, receipt: dict[str, Any]) -> str:
    """HMAC-SHA256 in hexadecimal."""
    canonical = json.dumps(receipt, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hmac.new(key, canonical.encode(), hashlib.sha256).hexdigest()


def days_of(folder: Path) -> list[Path]:
    """The files of a folder, the oldest first."""
    return sorted(path for path in folder.iterdir() if _DAY.fullmatch(path.name))


def _lines(folder: Path) -> Iterator[str]:
    for path in reversed(days_of(folder)):
        yield from reversed(path.read_text(encoding="utf-8", errors="replace").splitlines())


def _key(folder: Path) -> bytes:
    """The folder's key, made at the first start."""
    path = folder / KEY_FILE
    if not path.exists():
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(file, "w", encoding="ascii") as out:
            out.write(secrets.token_hex(32))
    try:
        return bytes.fromhex(path.read_text(encoding="ascii"))
    except ValueError:
        raise UsageError(f"--receipts: {path} is no key; move it away to begin a new folder") from None
