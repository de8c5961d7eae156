"""`--log-json`: the log as JSON, one object a line on standard error, a line for each request among them."""

from __future__ import annotations

import json
import logging
import traceback
from datetime import UTC, datetime
from typing import Any

FIELDS = ("request_id", "method", "route", "status", "seconds", "adapter", "key")


class JsonLines(logging.Formatter):
    """time, level, logger, message, and of a request its fields. Of an exception: its kind and where it was raised, not what it says."""

    def format(self, record: logging.LogRecord) -> str:
        said: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        said |= {name: getattr(record, name) for name in FIELDS if getattr(record, name, None) is not None}
        if record.exc_info and record.exc_info[0] is not None:
            said["error"] = record.exc_info[0].__name__
            said["frames"] = traceback.format_tb(record.exc_info[2])
        return json.dumps(said)


def log_json() -> None:
    """Logs warnings of everything, and the server's own lines from INFO on."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("ptune.serve").setLevel(logging.INFO)
