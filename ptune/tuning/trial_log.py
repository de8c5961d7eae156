"""Reads metrics.jsonl while a training may be writing it. Torch-free."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def entries(path: Path) -> list[dict[str, Any]]:
    """The complete lines so far; none if the file does not exist yet."""
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, UnicodeDecodeError):
        return []
    complete = []
    for line in text.splitlines(keepends=True):
        if not line.endswith("\n"):
            break  # incomplete
        try:
            complete.append(json.loads(line))
        except ValueError:
            break
    return complete
