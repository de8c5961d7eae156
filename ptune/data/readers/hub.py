"""Data sets of the Hugging Face hub, through `datasets`: hub:OWNER/NAME[/CONFIG][@SPLIT]."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ptune.data.problems import Problems
from ptune.data.readers.columns import without_nulls
from ptune.data.readers.rows import Row, objects
from ptune.errors import DataError
from ptune.progress import Progress

PREFIX = "hub:"
_NAME = re.compile(r"hub:(?P<name>[^/@]+/[^/@]+)(/(?P<config>[^/@]+))?(@(?P<split>[^@]+))?")


@dataclass(frozen=True)
class HubRows:
    """A split of a data set, which `datasets` keeps on disk."""

    table: Any  # datasets.Dataset
    format = "hub"
    unit = "row"

    def rows(self, problems: Problems) -> Iterator[Row]:
        """See `Reader.rows`."""
        return objects(enumerate(map(without_nulls, self.table), start=1), problems)

    def sha256(self) -> str:
        """SHA-256 over all rows as JSON, independent of the files that hold them."""
        digest = hashlib.sha256()
        with Progress("hashing the rows", len(self.table), unit="rows") as progress:
            for row in self.table:
                digest.update(json.dumps(row, sort_keys=True, default=str).encode() + b"\n")
                progress.advance()
        return digest.hexdigest()

    @property
    def size_bytes(self) -> int:
        """Size that the rows would have in memory."""
        size: int = self.table.data.nbytes
        return size


def open_hub(named: str) -> HubRows:
    """Downloads a data set, or finds it in the cache of `datasets`; the default split is "train".

    Raises: DataError if the name is malformed, `datasets` is not installed, or it cannot be loaded.
    """
    match = _NAME.fullmatch(named)
    if match is None:
        raise DataError("not the name of a data set: it is hub:OWNER/NAME[/CONFIG][@SPLIT]", file=named)
    if importlib.util.find_spec("datasets") is None:
        raise DataError("data sets of the hub need datasets: pip install 'ptune[data]'", file=named)
    import datasets

    try:
        table = datasets.load_dataset(match["name"], match["config"], split=match["split"] or "train")
    except Exception as error:  # errors of many libraries: no network, no such name, config or split
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(f"cannot be loaded from the hub: {reason}", file=named) from None
    return HubRows(table)
