"""metrics.jsonl of a training that may be writing it right now. Torch-free."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def entries(path: Path) -> list[dict[str, Any]]:
    """Its whole lines so far; none where there is no file yet."""
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, UnicodeDecodeError):
        return []
    found = []
    for line in text.splitlines(keepends=True):
        if not line.endswith("\n"):
            break  # half written
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found
