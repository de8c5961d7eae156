"""The folder that `ptune export --gguf` writes, format 1: GGUF files, a Modelfile, parity.json beside an adapter, and gguf.json."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ptune.formats.other_export import OtherExport

GgufType = Literal["auto", "F32", "F16", "Q8_0", "Q4_1", "Q4_0", "Q4_K"]
"""`auto`: a base that came as GGUF stays as it is; everything else is F16."""

RECORD = "gguf.json"
BASE_FILE, ADAPTER_FILE, MODELFILE = "base.gguf", "adapter.gguf", "Modelfile"


class GgufExport(OtherExport):
    """gguf.json"""

    type: str  # of the weights


def read_export(folder: Path) -> GgufExport:
    """Reads a folder's record and holds its files against their hashes. Raises: FormatError."""
    return GgufExport.read(folder / RECORD)
