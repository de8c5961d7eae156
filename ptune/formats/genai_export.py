"""The folder that `ptune export --genai` writes, format 1: onnxruntime-genai's files, an adapter beside them, and genai.json."""

from __future__ import annotations

from pathlib import Path

from ptune.formats.other_export import OtherExport

RECORD = "genai.json"
GRAPH, SETTINGS = "model.onnx", "genai_config.json"


class GenaiExport(OtherExport):
    """genai.json"""


def read_export(folder: Path) -> GenaiExport:
    """Reads a folder's record and holds its files against their hashes. Raises: FormatError."""
    return GenaiExport.read(folder / RECORD)
