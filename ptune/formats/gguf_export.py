"""The folder that `ptune export --gguf` writes, format 1: GGUF files, a Modelfile, parity.json beside an adapter, and gguf.json."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from ptune.formats.bundle import BaseIdentity, Hop, check_hash, parse
from ptune.formats.whole_write import read_json

GgufType = Literal["auto", "F32", "F16", "Q8_0", "Q4_1", "Q4_0", "Q4_K"]
"""`auto`: a base that came as GGUF stays as it is; everything else is F16."""

RECORD = "gguf.json"
BASE_FILE, ADAPTER_FILE, MODELFILE = "base.gguf", "adapter.gguf", "Modelfile"
FORMAT = 1


class GgufExport(BaseModel):
    """gguf.json"""

    model_config = ConfigDict(frozen=True, extra="ignore")
    format: int = FORMAT
    type: str  # of the weights
    base: BaseIdentity
    files: dict[str, str]  # name -> SHA-256
    versions: dict[str, str]
    hops: tuple[Hop, ...]


def read_export(folder: Path) -> GgufExport:
    """Reads a folder's record and holds its files against their hashes. Raises: FormatError."""
    record = parse(GgufExport, read_json(folder / RECORD), folder / RECORD)
    for name, expected in record.files.items():
        check_hash(folder / name, expected)
    return record
