"""The audit log: a line of JSON for each request that may change what is served, done or refused."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ptune.errors import UsageError

_log = logging.getLogger("ptune.serve")


class AuditLog:
    """Appends to a file. It is opened for each line, so that it may be rotated at any time.

    Raises: UsageError if the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._append(b"")
        except OSError as error:
            raise UsageError(f"--audit-log {path}: {error.strerror}") from None

    def write(self, fields: Mapping[str, Any]) -> None:
        """Appends a line, which is on the disk afterwards. What cannot be written goes to the server's own log."""
        line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **fields})
        try:
            self._append(line.encode() + b"\n")
        except OSError as error:
            _log.error("not in the audit log, %s: %s", error.strerror, line)

    def _append(self, line: bytes) -> None:
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(file, line)
            os.fsync(file)
        finally:
            os.close(file)
