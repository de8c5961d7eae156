"""Writes metrics to metrics.jsonl, one JSON object per line, and to a tracker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptune.formats.run import read_lines as read
from ptune.formats.whole_write import disk_errors, write_text

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Journal", "read"]


class Journal:
    """The log of metrics. Only the main process writes."""

    def __init__(self, path: Path, accelerator: Accelerator) -> None:
        self.path, self._accelerator = path, accelerator
        self.latest: dict[str, float] = {}  # the newest value of each name, in every process

    def forget_after(self, step: int) -> list[dict[str, Any]]:
        """Removes the lines of steps after `step`, which will be repeated; returns the others."""
        if not self.path.is_file():
            return []
        kept = [entry for entry in read(self.path) if entry["step"] <= step]
        self.latest.clear()
        if self._accelerator.is_main_process:
            write_text(self.path, "".join(json.dumps(entry) + "\n" for entry in kept))
        for entry in kept:
            self.latest.update(entry)
        return kept

    def write(self, step: int, **values: float | int) -> None:
        """Appends {"step": step, **values}."""
        self.latest.update(values)
        if not self._accelerator.is_main_process:
            return
        with disk_errors(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        self._accelerator.log(values, step=step)
