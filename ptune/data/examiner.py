"""The seam through which data is examined while it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from ptune.codecs.chat import Example
from ptune.data.source import Sample


class Examiner(Protocol):
    """Sees everything that `dataset.load` reads. It may keep what it needs, but not all: a set can exceed memory."""

    def file(self, split: str, path: Path) -> None:
        """`path` is about to be read for this split; rows that are held out of it come as "validation"."""

    def sample(self, split: str, sample: Sample, example: Example) -> None:
        """A row that could be encoded, before it is cut to length; once with each of several examples.

        Rows of a file come in its order.
        """
