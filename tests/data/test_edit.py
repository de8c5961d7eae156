"""A row corrected or left out in a copy: every other row stays what it is and where it is, whatever the format."""

from __future__ import annotations

import csv
import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from ptune.cli import main
from ptune.data.edit import as_written, copy_of, corrected, row_at, write_edited
from ptune.data.read import read
from ptune.errors import DataError

FORMATS = ("jsonl", "json", "csv", "tsv", "parquet")
TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=12).filter(str.strip)
ROWS = st.lists(
    st.fixed_dictionaries({"text": TEXT, "label": st.sampled_from(("good", "bad"))}), min_size=1, max_size=6
)


def write(folder: Path, kind: str, rows: list[dict[str, Any]]) -> Path:
    path = folder / f"rows.{kind}"
    if kind == "parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif kind == "jsonl":
        path.write_text(
            "\n\n".join(map(json.dumps, rows)), encoding="utf-8"
        )  # empty lines between, none at the end
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, delimiter="\t" if kind == "tsv" else ",")
            table.writerow(rows[0])
            table.writerows(row.values() for row in rows)
    return path


@pytest.mark.parametrize("kind", FORMATS)
@settings(max_examples=20)
@given(rows=ROWS, data=st.data(), text=TEXT)
def test_one_row_changes_and_the_others_stay_where_they_are(
    kind: str, rows: list[dict[str, Any]], data: st.DataObject, text: str
) -> None:
    with tempfile.TemporaryDirectory() as place:
        path = write(Path(place), kind, rows)
        before, bytes_before = {row.number: row.value for row in read(path).rows}, path.read_bytes()
        number = data.draw(st.sampled_from(sorted(before)))
        assert row_at(path, number) == before[number]
        changed, without = Path(place) / "changed.jsonl", Path(place) / "without.jsonl"
        assert write_edited(path, changed, number, {"text": text}).left_out == 0
        assert path.read_bytes() == bytes_before, "the file itself stays"
        after = {row.number: row.value for row in read(changed).rows}
        assert after == {**before, number: {**before[number], "text": text}}
        write_edited(changed, changed, number, {"label": "none"})  # once more, in place
        assert row_at(changed, number) == {"text": text, "label": "none"}
        if len(before) > 1:
            write_edited(path, without, number, None)
            rest = {row.number: row.value for row in read(without).rows}
            assert rest == {at: value for at, value in before.items() if at != number}


@pytest.mark.parametrize("kind", FORMATS)
def test_a_row_that_is_not_there_is_a_sentence(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, kind, [{"text": "a", "label": "b"}])
    for written in ({"text": "c"}, None):
        with pytest.raises(DataError, match=r"there is no row on (line|row) 9"):
            write_edited(path, tmp_path / "copy.jsonl", 9, written)
    assert not (tmp_path / "copy.jsonl").exists()


def test_lines_that_cannot_be_read_stay_until_they_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "a"}\n{"text": broken\n\xff\xfe\n{"text": "b"}\n')
    copy = tmp_path / "copy.jsonl"
    write_edited(path, copy, 4, {"text": "c"})
    assert copy.read_bytes() == b'{"text": "a"}\n{"text": broken\n\xff\xfe\n{"text": "c"}\n'
    with pytest.raises(DataError, match=r"copy.jsonl:2: cannot be read: not JSON"):
        row_at(copy, 2)
    write_edited(copy, copy, 2, None)
    write_edited(copy, copy, 3, None)
    assert [(row.number, row.value["text"]) for row in read(copy).rows] == [(1, "a"), (4, "c")]


def test_rows_of_a_table_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,label\na,b\nonly one\nc,d\n")
    made = write_edited(path, tmp_path / "copy.jsonl", 2, {"label": "e"})
    assert made.left_out == 1
    assert [row.number for row in read(made.copy).rows] == [2, 4]


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(row=st.dictionaries(st.text(max_size=4), _VALUES, max_size=4))
def test_what_is_written_as_it_stands_changes_nothing(row: dict[str, Any]) -> None:
    assert corrected(row, {column: as_written(value) for column, value in row.items()}) == row


def test_values_that_are_no_text_are_written_as_json() -> None:
    row = {"messages": [{"role": "user", "content": "a"}], "label": 1, "note": None}
    changed = corrected(row, {"messages": '[{"role": "user", "content": "b"}]', "label": "2", "note": "c"})
    assert changed == {"messages": [{"role": "user", "content": "b"}], "label": 2, "note": "c"}
    with pytest.raises(DataError, match="label holds a number, which is written as JSON, and this is none"):
        corrected(row, {"label": "two"})


def test_other_files_are_refused(tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("some words\n")
    with pytest.raises(DataError, match="rows of JSONL, JSON, CSV, TSV, Parquet and Arrow"):
        row_at(text, 1)
    with pytest.raises(DataError):
        row_at(tmp_path / "none.jsonl", 1)


def test_a_copy_has_a_name_of_its_own(tmp_path: Path) -> None:
    original = tmp_path / "reviews.csv"
    original.write_text("a")
    first = copy_of(original, tmp_path)
    assert first.name == "reviews.edited.jsonl"
    first.write_text("a")
    assert copy_of(original, tmp_path).name == "reviews.edited-2.jsonl", "an earlier copy stays"
    assert copy_of(first, tmp_path) == first, "a copy is edited in place"
    assert copy_of(first, tmp_path, lambda _: True).name == "reviews.edited-2.jsonl", (
        "but not one that is used"
    )
    assert copy_of(first, tmp_path / "other") == tmp_path / "other" / "reviews.edited.jsonl"


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "reviews.csv"
    path.write_text("text,label\nfine,bad\npoor,bad\n")
    assert main(["edit", str(path), "2", "--set", "label=good", "--set", "text=so = so"]) == 0
    copy = tmp_path / "reviews.edited.jsonl"
    assert row_at(copy, 2) == {"text": "so = so", "label": "good"}
    assert main(["edit", str(copy), "3", "--delete"]) == 0
    assert [row.number for row in read(copy).rows] == [2]
    capsys.readouterr()
    for wrong, told in (
        (["2"], "--set COLUMN=VALUE, or --delete"),
        (["2", "--set", "label"], "names no column"),
        (["2", "--set", "a=b", "--delete"], "or --delete"),
        (["7", "--delete"], "no row on line 7"),
    ):
        assert main(["edit", str(path), *wrong]) != 0
        assert told in capsys.readouterr().err
