"""What the records of exports for other engines have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict

from ptune.formats.bundle import BaseIdentity, Hop, check_hash, parse
from ptune.formats.whole_write import read_json


class OtherExport(BaseModel):
    """The record of a folder that another engine opens, format 1."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    format: int = 1
    base: BaseIdentity
    files: dict[str, str]  # name -> SHA-256
    versions: dict[str, str]
    hops: tuple[Hop, ...]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads a record and holds the files beside it against their hashes. Raises: FormatError."""
        record = parse(cls, read_json(path), path)
        for name, expected in record.files.items():
            check_hash(path.parent / name, expected)
        return record
