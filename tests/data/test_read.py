"""Files into rows, and what is said of files that are broken."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from ptune.data.read import read, resolve
from ptune.errors import DataError

ROWS = [{"text": "å"}, {"text": "b", "n": [1, None]}]


def values(path: Path) -> list[dict]:
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


def test_a_sample_is_named_by_its_name():
    table = read(Path("sample:devils_dictionary.train"))
    assert len(table.rows) == 747
    assert resolve(Path("sample:devils_dictionary.test")).is_file()
    with pytest.raises(DataError, match=r"no sample 'devil'; there are devils_dictionary\.test, "):
        read(Path("sample:devil"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "x.jsonl: the file is empty"),
        (b"\xef\xbb\xbf\n \n", "x.jsonl: the file is empty"),
        (b'{"a": 1}\n{"a": \n', "x.jsonl:2: not JSON: Expecting value at column 7"),
        (b'{"a": 1}\n\n"text"\n', "x.jsonl:3: not a JSON object but str"),
        (b'{"a": 1}\n{"a": "\xff"}\n', "x.jsonl:2: not UTF-8: byte 0xff at offset 16"),
        (b'\xef\xbb\xbf{"a": "\xff"}\n', "x.jsonl:1: not UTF-8: byte 0xff at offset 10"),
        ("{}".encode("utf-16"), "x.jsonl:1: not UTF-8: byte 0xff at offset 0"),
        (b"[" * 100_000, "x.jsonl: JSON that cannot be read"),
        (b'{"a": ' + b"9" * 5000 + b"}", "x.jsonl:1: JSON that cannot be read"),
        (b'[{"a": 1},\n {"a": }]', "x.jsonl: not JSON: Expecting value at line 2, column 8"),
        (b'[{"a": 1}, 2]', "x.jsonl: 1 of 2 rows cannot be used\n  row 2: not a JSON object but int"),
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
    ("path", "message"), [("none.jsonl", "there is no such file"), (".", "cannot be read: Is a dir")]
)
def test_a_path_that_is_no_file(tmp_path, path, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path / path)


@settings(max_examples=200, deadline=None)
@given(
    content=st.binary(max_size=60)
    | st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass"))
)
def test_any_bytes_give_rows_or_a_data_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(content)
    with contextlib.suppress(DataError):
        assert all(isinstance(value, dict) for value in values(path))
