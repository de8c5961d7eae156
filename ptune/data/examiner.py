"""The protocol of an examiner, which sees data while it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from ptune.codecs.chat import Example
from ptune.data.source import Sample


class Examiner(Protocol):
    """Sees everything that `dataset.load` reads. It must not keep everything: a set can exceed memory."""

    def file(self, split: str, path: Path) -> None:
        """Called before `path` is read for this split; its held-out rows come as "validation"."""

    def sample(self, split: str, sample: Sample, example: Example) -> None:
        """Called for each encoded example of a row, before it is cut to length.

        Rows of a file come in order.
        """
