"""Files into rows, and what is said of files that are broken."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from ptune.data.read import open_file, read, resolve
from ptune.errors import DataError

ROWS = [{"text": "å"}, {"text": "b", "n": [1, None]}]


def values(path: Path) -> list[dict[str, Any]]:
    table = read(path)
    table.problems.raise_if_any(table.row_count)
    return [row.value for row in table.rows]


@pytest.mark.parametrize("before", ["", "\ufeff"])
@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x"])
def test_reads_json_by_line_or_as_an_array_whatever_the_name(tmp_path, name, before):
    (tmp_path / name).write_text(before + "\r\n\n".join(json.dumps(row) for row in ROWS), encoding="utf-8")
    assert values(tmp_path / name) == ROWS
    assert [row.number for row in read(tmp_path / name).rows] == [1, 3]
    (tmp_path / name).write_text(before + "\n" + json.dumps(ROWS, indent=1), encoding="utf-8")
    assert values(tmp_path / name) == ROWS


def test_reads_parquet_without_the_fields_that_a_row_lacks(tmp_path):
    rows = [{"messages": [{"role": "user", "name": None}, {"role": "x", "name": "y"}], "id": None}]
    parquet.write_table(pyarrow.Table.from_pylist([*rows, {"messages": [], "id": 1}]), tmp_path / "x.parquet")
    assert values(tmp_path / "x.parquet") == [
        {"messages": [{"role": "user"}, {"role": "x", "name": "y"}]},
        {"messages": [], "id": 1},
    ]


def test_a_pipe_is_read_as_a_file_is(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    content = "\n".join(map(json.dumps, ROWS)).encode()
    writer = threading.Thread(target=lambda: path.write_bytes(content))
    writer.start()
    file = open_file(path)
    writer.join()
    assert file.sha256 == hashlib.sha256(content).hexdigest()
    for _ in range(2):
        assert [row.value for row in file.rows(file.problems())] == ROWS


def test_a_file_that_changes_while_it_is_read_is_told(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n', encoding="utf-8")
    file = open_file(path)
    rows = file.rows(file.problems())
    next(rows)
    os.utime(path, ns=(0, 0))
    with pytest.raises(DataError, match=r"x\.jsonl: the file changed while it was read"):
        list(rows)


@pytest.mark.parametrize(
    ("name", "content", "format"),
    [
        ("x.csv", b"[a],b\n1,2\n", "CSV"),
        ("x.tsv", b"a\tb\n1\t2\n", "TSV"),
        ("x.CSV", b"a;b\n1;2\n", "CSV with ;"),
        ("x.txt", b"[Chorus]\n{la}", "plain text, one document in passages"),
        ("x.md", b"# Title", "plain text, one document in passages"),
        ("x.txt", b'\n{"text": "a"}\n', "JSONL"),
        ("x.csv", b"PAR1", "Parquet"),
        ("x", b"ARROW1\0\0", "Arrow"),
        ("x", b"\xff\xff\xff\xff", "Arrow stream"),
        ("x", b'{"a": 1}', "JSONL"),
        ("x", b" " * 100_000 + b"[1]", "JSON array"),
    ],
)
def test_a_format_is_known_by_the_first_bytes_or_the_name(tmp_path, name, content, format):  # noqa: A002
    (tmp_path / name).write_bytes(content)
    assert open_file(tmp_path / name).reader.format == format


def test_a_sample_is_named_by_its_name():
    table = read(Path("sample:devils_dictionary.train"))
    assert len(table.rows) == 747
    assert resolve(Path("sample:devils_dictionary.test")).is_file()
    with pytest.raises(
        DataError, match=r"no sample 'devil'; there are bierce_pairs\.test, .*, devils_dictionary\.test, "
    ):
        read(Path("sample:devil"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "x.jsonl: the file is empty"),
        (b"\xef\xbb\xbf\n \n", "x.jsonl: the file is empty"),
        (
            b'{\n  "data": [\n    {"a": 1}\n  ]\n}\n',
            "x.jsonl: the file is one JSON object over many lines, not rows",
        ),
        (b'{"a": 1}\n{"a": \n', "x.jsonl:2: not JSON: Expecting value at column 7"),
        (b'{"a": 1}\n\n"text"\n', "x.jsonl:3: not a JSON object but str"),
        (b'{"a": 1}\n{"a": "\xff"}\n', "x.jsonl:2: not UTF-8: byte 0xff at offset 16"),
        (b'\xef\xbb\xbf{"a": "\xff"}\n', "x.jsonl:1: not UTF-8: byte 0xff at offset 10"),
        ("{}".encode("utf-16"), "x.jsonl:1: not UTF-8: byte 0xff at offset 0"),
        (b"[" * 100_000, "x.jsonl: JSON that cannot be read"),
        (b'{"a": ' + b"9" * 5000 + b"}", "x.jsonl:1: JSON that cannot be read"),
        (b'[{"a": 1},\n {"a": }]', "x.jsonl: not JSON: Expecting value at line 2, column 8"),
        (b'[{"a": 1}, 2]', "x.jsonl: 1 of 2 rows cannot be used\n  row 2: not a JSON object but int"),
        (b'\xef\xbb\xbf[{"a": "\xff"}]', "x.jsonl: not UTF-8: byte 0xff at offset 11"),
        (b'[{"a": 1}] 2', "x.jsonl: not JSON: Extra data at column 12"),
        (b'[{"a": 1} {"a": 2}]', "x.jsonl: not JSON: Expecting ',' delimiter at column 11"),
        (
            b'[{"a": 1},\n {"a": "b}]',
            "x.jsonl: not JSON: Unterminated string starting at at line 2, column 8",
        ),
        (b"\x1f\x8b\x08", "x.jsonl: the file is compressed (gzip): unpack it first"),
        (b"%PDF-1.4\n%\xe2\xe3\nobj,1\n", "x.jsonl: the file is a PDF, not text"),
        (b"\x89PNG\r\n\x1a\n\0", "x.jsonl: the file is a PNG image, not text"),
        (b"PK\3\4" + bytes(26) + b"[Content_Types].xml", "x.jsonl: the file is a spreadsheet or document"),
        (b"PK\3\4" + bytes(26) + b"rows.csv", "x.jsonl: the file is compressed (zip): unpack it first"),
        (b"ARROW1 but no more", "x.jsonl: not an Arrow file that can be read"),
        (b"\xff\xff\xff\xff\x10\0\0\0 no more", "x.jsonl: not an Arrow stream file that can be read"),
        (b"PAR1 but no more", "x.jsonl: not a Parquet file that can be read"),
    ],
)
def test_a_broken_file_is_told_by_file_and_line(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    Path("x.jsonl").write_bytes(content)
    with pytest.raises(DataError) as error:
        values(Path("x.jsonl"))
    assert str(error.value).startswith(message)


def test_all_problems_of_a_file_are_told_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = ['{"a": 1}', *["{"] * 3, *(f"{'[' * n}" for n in range(1, 8)), "3"]
    Path("x.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(DataError) as error:
        values(Path("x.jsonl"))
    first, *others = str(error.value).splitlines()
    assert first == "x.jsonl: 11 of 12 lines cannot be used"
    assert others[0] == (
        "  line 2: not JSON: Expecting property name enclosed in double quotes at column 2 (and 2 more like it)"
    )
    assert len(others) == 6
    assert others[-1] == "  … and 4 more kinds of problem"


@pytest.mark.parametrize(
    ("path", "message"), [("none.jsonl", "there is no such file"), (".", "is a folder: name the files in it")]
)
def test_a_path_that_is_no_file(tmp_path, path, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path / path)


@settings(max_examples=200)
@given(
    content=st.binary(max_size=60)
    | st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass"))
)
def test_any_bytes_give_rows_or_a_data_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(content)
    with contextlib.suppress(DataError):
        assert all(isinstance(value, dict) for value in values(path))
