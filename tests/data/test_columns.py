"""Parquet and Arrow files."""

from __future__ import annotations

import csv
import json
from typing import Any

import datasets
import pyarrow
import pytest
from pyarrow import feather, ipc, parquet

from ptune.data.read import open_file
from ptune.data.shapes.conversations import Conversation, recognise

CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
ROWS: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "id": None},
    {"messages": [{"role": "user", "content": "å", "name": "n"}], "id": 3},
] * 400
EXPECTED = [
    {"messages": ROWS[0]["messages"]},
    ROWS[1],
] * 400


def write(path, kind):
    table = pyarrow.Table.from_pylist(ROWS)
    if kind == "Parquet":
        parquet.write_table(table, path, row_group_size=300)
    elif kind == "Feather":
        feather.write_feather(table, path, compression="lz4")
    elif kind == "Arrow":
        with ipc.new_file(path, table.schema) as file:
            file.write_table(table, max_chunksize=300)
    else:
        with ipc.new_stream(path, table.schema) as stream:
            stream.write_table(table)


@pytest.mark.parametrize("kind", ["Parquet", "Feather", "Arrow", "Arrow stream"])
def test_rows_come_in_order_without_the_fields_that_they_lack(tmp_path, kind):
    write(tmp_path / "x", kind)
    file = open_file(tmp_path / "x")
    for _ in range(2):
        rows = list(file.rows(file.problems()))
        assert [row.number for row in rows] == list(range(1, 801))
        assert [row.value for row in rows] == EXPECTED


def test_what_datasets_saves_to_disk_is_read(tmp_path):
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    (path,) = (tmp_path / "saved").glob("*.arrow")
    file = open_file(path)
    assert file.reader.format == "Arrow stream"
    assert [row.value for row in file.rows(file.problems())] == EXPECTED


@pytest.mark.parametrize(
    "as_text", [(), ("messages",), ("tools",), ("messages", "tools"), ("tool_calls",), ("arguments",)]
)
@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_tool_calls_come_through_columns_as_values_and_as_json_text(tmp_path, kind, as_text):
    arguments = json.dumps({"x": 1}) if "arguments" in as_text else {"x": 1}
    calls = [{"type": "function", "function": {"name": "f", "arguments": arguments}}]
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "tool_calls": json.dumps(calls) if "tool_calls" in as_text else calls},
        {"role": "tool", "content": "1"},
        {"role": "assistant", "content": "a"},
    ]
    tools = [{"type": "function", "function": {"name": "f"}}]
    row: dict[str, Any] = {"messages": messages, "tools": tools}
    row = {
        name: json.dumps(value) if name in as_text or kind == "csv" else value for name, value in row.items()
    }
    if kind == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "x")
    else:
        with (tmp_path / "x.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([row.keys(), row.values()])
    file = open_file(tmp_path / ("x" if kind == "parquet" else "x.csv"))
    (read,) = file.rows(file.problems())
    conversation = recognise(read.value).convert(read.value)
    assert conversation == Conversation(
        ({**messages[0]}, {"role": "assistant", "tool_calls": calls}, *messages[2:]), tuple(tools)
    )
