"""A text of a GGUF file's metadata is what the gguf package reads, wherever it stands in the file."""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf import GGUFReader, GGUFValueType

from ptune.backbone.gguf_header import text_field
from ptune.errors import FormatError

from .gguf_file import write


def test_every_field_is_found_past_all_that_stand_before_it(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write(path, licence="lizenz-ü")
    fields = GGUFReader(path).fields
    assert {GGUFValueType.ARRAY, GGUFValueType.FLOAT32} <= {kind for f in fields.values() for kind in f.types}
    for name, field in fields.items():
        if not name.startswith("GGUF."):  # the reader's own names for the file's header
            is_text = field.types == [GGUFValueType.STRING]
            assert text_field(path, name) == (field.contents() if is_text else None)
    assert text_field(path, "general.license") == "lizenz-ü"
    assert text_field(path, "no.such.field") is None


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write(path)
    whole = path.read_bytes()
    for content in (b"", whole[:40], whole[:3000], b"GGML" + whole[4:], b"GGUF\x01" + whole[5:]):
        path.write_bytes(content)
        with pytest.raises(FormatError, match=r"tiny\.gguf"):
            text_field(path, "no.such.field")
