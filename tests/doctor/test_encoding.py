"""Bytes of files: what is found, where, and that nothing is held but one piece."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.findings import place_of

from ptune.doctor import encoding

ROW = json.dumps({"prompt": "caffè", "completion": "ñandú 🙂"}, ensure_ascii=False)


def found(path: Path) -> dict[str, tuple[int | None, int]]:
    """Rule -> line and count."""
    return {
        finding.rule: (place_of(finding).number, finding.count) for finding in encoding.examine(path, "named")
    }


@pytest.mark.parametrize("name", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
def test_wide_encodings_are_known_with_and_without_a_mark(tmp_path, name):
    path = tmp_path / "a.jsonl"
    path.write_bytes((f"{ROW}\n" * 9).encode(name))
    if name in ("utf-32-le", "utf-32-be"):  # without a mark these are only known to hold NULs
        assert found(path)["nul-byte"][0] == 1
    else:
        assert found(path) == {"utf-16": (1, 1)}
        (finding,) = encoding.examine(path, "named")
        read_as = finding.message.partition("iconv -f ")[2].partition(" ")[0]
        assert path.read_bytes().decode(read_as) == f"{ROW}\n" * 9  # Python's names of them mean the same


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        ("smörgåsbord", "latin-1", "as Latin-1 it reads"),
        ("it’s", "cp1252", "as Windows-1252 it reads"),
        ("Привет, мир", "koi8-r", "find out the file's encoding"),
        ("你好", "gb18030", "find out the file's encoding"),
    ],
)
def test_other_encodings_are_guessed(tmp_path, text, name, said):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": "' + text.encode(name) + b'"}\n')
    [finding] = encoding.examine(path, "named")
    assert (finding.rule, place_of(finding).number) == ("not-utf-8", 2)
    assert said in finding.message
    if "reads" in said:
        assert text in finding.message


def test_a_mark_in_the_middle_is_found_where_files_were_joined(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(f"{ROW}\n{ROW}\n".encode() + b"\xef\xbb\xbf" + f"{ROW}\n".encode())
    assert found(path) == {"byte-order-mark": (3, 1)}


def test_columns_that_differ_are_told_with_the_first_odd_row(tmp_path):
    rows = [{"prompt": "a", "completion": "b"}] * 4
    rows[2:2] = [{"prompt": "a", "completoin": "b"}, {"prompt": "a"}]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n{broken\n", encoding="utf-8")
    [finding] = encoding.examine(path, "named")
    assert (finding.rule, place_of(finding).number, finding.count) == ("columns-differ", 3, 2)
    assert "lacks 'completion' and has besides 'completoin'" in finding.message


def test_a_binary_file_is_left_alone(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1" + bytes(range(256)))
    assert found(path) == {}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=80), piece=st.integers(4, 9))
def test_any_bytes_come_back_in_numbered_pieces(tmp_path, monkeypatch, content, piece):
    monkeypatch.setattr(encoding, "_PIECE", piece)
    path = tmp_path / "any"
    path.write_bytes(content)
    pieces = list(encoding.lines(path))
    assert b"".join(part for _, part in pieces) == content
    starts = [0, *(at + 1 for at, byte in enumerate(content) if byte == 10)]
    at = 0
    for number, part in pieces:
        assert number == sum(start <= at for start in starts)
        at += len(part)
    list(encoding.examine(path, "any"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=60), piece=st.integers(4, 9))
def test_good_text_is_never_cut_inside_a_character(tmp_path, monkeypatch, text, piece):
    monkeypatch.setattr(encoding, "_PIECE", piece)
    path = tmp_path / "any"
    path.write_text(text, encoding="utf-8", errors="ignore", newline="")
    for _, part in encoding.lines(path):
        part.decode()
