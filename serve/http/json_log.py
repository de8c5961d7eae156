"""`--log-json`: logs to standard error as JSON, one object a line, with a line for each request."""

from __future__ import annotations

import json
import logging
import traceback
from datetime import UTC, datetime
from typing import Any

FIELDS = ("request_id", "method", "route", "status", "seconds", "adapter", "key")


class JsonLines(logging.Formatter):
    """Formats time, level, logger and message; the fields of a request; and the type and traceback of an exception.

    The message of an exception is left out, as it may hold what a client sent.
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: getattr(record, name) for name in FIELDS if getattr(record, name, None) is not None}
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
            line["frames"] = traceback.format_tb(record.exc_info[2])
        return json.dumps(line)


def log_json() -> None:
    """Logs warnings of all modules, and the server's own lines from INFO on."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("ptune.serve").setLevel(logging.INFO)
