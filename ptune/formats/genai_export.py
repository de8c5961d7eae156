"""The folder that `ptune export --genai` writes, format 1: onnxruntime-genai's files, an adapter beside them, and genai.json."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from ptune.formats.bundle import BaseIdentity, Hop, check_hash, parse
from ptune.formats.whole_write import read_json

RECORD = "genai.json"
GRAPH, SETTINGS = "model.onnx", "genai_config.json"
FORMAT = 1


class GenaiExport(BaseModel):
    """genai.json"""

    model_config = ConfigDict(frozen=True, extra="ignore")
    format: int = FORMAT
    base: BaseIdentity
    files: dict[str, str]  # name -> SHA-256
    versions: dict[str, str]
    hops: tuple[Hop, ...]


def read_export(folder: Path) -> GenaiExport:
    """Reads a folder's record and holds its files against their hashes. Raises: FormatError."""
    record = parse(GenaiExport, read_json(folder / RECORD), folder / RECORD)
    for name, expected in record.files.items():
        check_hash(folder / name, expected)
    return record
