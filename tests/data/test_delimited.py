"""CSV and TSV files, and what is said of those that are broken."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptune.data.problems import Problems
from ptune.data.read import open_file
from ptune.data.readers.delimited import Delimited, delimiter_of
from ptune.errors import DataError


def rows_of(path: Path, content: bytes, delimiter: str = ","):
    path.write_bytes(content)
    problems = Problems(path.name)
    rows = list(Delimited(path, path.name, delimiter).rows(problems))
    problems.raise_if_any(len(rows) + problems.count)
    return rows


def test_a_row_is_numbered_by_the_line_that_it_begins_in(tmp_path):
    content = b'\xef\xbb\xbfa,b\r\n1,"two\nlines, and ""quotes"""\r\n\r\n,\xc3\xa5\r\n'
    rows = rows_of(tmp_path / "x.csv", content)
    assert [(row.number, row.value) for row in rows] == [
        (2, {"a": "1", "b": 'two\nlines, and "quotes"'}),
        (5, {"a": "", "b": "å"}),
    ]


def test_a_field_may_be_long(tmp_path):
    (row,) = rows_of(tmp_path / "x.csv", b"text\n" + b"word " * 100_000)
    assert len(row.value["text"]) == 500_000


@pytest.mark.parametrize(
    ("suffix", "line", "mark"),
    [
        (".csv", b"a,b", ","),
        (".csv", b"a;b;c,d", ";"),
        (".csv", b"a\tb", "\t"),
        (".tsv", b"a,b", "\t"),
        (".csv", b"text", ","),
        (".csv", b"sep=;\r", ";"),
        (".csv", b"\xef\xbb\xbfsep=|", "|"),
        (".csv", b'"sep=,"', ","),
    ],
)
def test_the_delimiter_is_what_the_header_has_most_of(suffix, line, mark):
    assert delimiter_of(suffix, line) == mark


@pytest.mark.parametrize("line", [b"sep=;\r\n", b'\xef\xbb\xbf"sep=;"\r\n'])
def test_a_first_line_that_tells_excel_the_delimiter_names_no_columns(tmp_path: Path, line: bytes) -> None:
    content = line + b"text;label\r\na, b, c, d;x\r\n"
    (tmp_path / "x.csv").write_bytes(content)
    file = open_file(tmp_path / "x.csv")
    problems = file.problems()
    (row,) = file.rows(problems)
    assert (row.number, row.value, problems.count) == (3, {"text": "a, b, c, d", "label": "x"}, 0)
    assert isinstance(file.reader, Delimited)
    assert file.reader.lines(row, header=True) == content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b\n1,2,3\n", "x.csv:2: has 3 fields, the header has 2"),
        (b'a,b\n1,2\n3,"4\n5,6\n', "x.csv:3: a quote is opened and never closed"),
        (b'a,b\n1,"2" 3\n', "x.csv:2: not CSV: ',' expected after '\"'"),
        (b"a,b,a\n1,2,3\n", "x.csv:1: the header names a more than once"),
        (
            b"\na,,c\n1,2,3\n",
            "x.csv:2: the header has no name for column 2; the first line must name the columns",
        ),
        (b'a,"b\n1,2\n', "x.csv:1: the header cannot be read: a quote is opened and never closed"),
        (b"a,b\n1,\xff\n", "x.csv:2: not UTF-8: byte 0xff at offset 6"),
        ("a,b\n1,2\n".encode("utf-16"), "x.csv:1: the header is not UTF-8"),
        ("a,b\r\n1,2\r\n".encode("utf-16"), "x.csv:1: the header is not UTF-8"),
        (b"a,b\r1,2\r", "x.csv:1: the header cannot be read: a carriage return without a line feed"),
    ],
)
def test_a_broken_file_is_told_by_line(tmp_path, content, message):
    with pytest.raises(DataError) as error:
        rows_of(tmp_path / "x.csv", content)
    assert str(error.value).startswith(message)


def test_the_index_that_pandas_writes_is_a_column(tmp_path):
    assert [row.value for row in rows_of(tmp_path / "x.csv", b",a\n0,x\n1,y\n")] == [
        {"Unnamed: 0": "0", "a": "x"},
        {"Unnamed: 0": "1", "a": "y"},
    ]
    (row,) = rows_of(tmp_path / "x.csv", b",Unnamed: 0,a\n0,1,x\n")
    assert list(row.value.values()) == ["0", "1", "x"]
    assert len(row.value) == 3


def test_all_problems_come_at_once(tmp_path):
    with pytest.raises(DataError) as error:
        rows_of(tmp_path / "x.csv", b'a,b\n1\n1,2\n\xff,2\n"1"x,2\n3\n1,"2')
    assert str(error.value).splitlines() == [
        "x.csv: 5 of 6 lines cannot be used",
        "  line 2: has 1 fields, the header has 2 (and 1 more like it)",
        "  line 4: not UTF-8: byte 0xff at offset 10",
        "  line 5: not CSV: ',' expected after '\"'",
        "  line 7: a quote is opened and never closed",
    ]


@settings(max_examples=200)
@given(
    table=st.lists(
        st.tuples(*[st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=8)] * 2),
        max_size=6,
    ),
    delimiter=st.sampled_from(",;\t"),
)
def test_what_the_csv_module_writes_is_read_back(tmp_path_factory, table, delimiter):
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows([("a", "b"), *table])
    path = tmp_path_factory.getbasetemp() / "x.csv"
    rows = rows_of(path, text.getvalue().encode(), delimiter)
    assert [tuple(row.value.values()) for row in rows] == table
