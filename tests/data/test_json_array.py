"""One JSON array, read in small pieces."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptune.data.problems import Problems
from ptune.data.readers import json_array
from ptune.data.readers.json_array import JsonArray
from ptune.errors import DataError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60)
@given(
    values=st.lists(st.dictionaries(st.text(max_size=5), JSON, max_size=3), max_size=5),
    indent=st.sampled_from([None, 1]),
    ascii_only=st.booleans(),
)
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_elements_are_those_of_the_whole(tmp_path_factory, size, values, indent, ascii_only):
    path = tmp_path_factory.getbasetemp() / "x.json"
    path.write_bytes(
        json.dumps(values, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
        if ascii_only
        else json.dumps(values, indent=indent, ensure_ascii=False).encode("utf-8", "replace")
    )
    expected = json.loads(path.read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_array, "_CHUNK_BYTES", size)
        rows = list(JsonArray(path, "x").rows(Problems("x", "row")))
    assert [row.value for row in rows] == expected
    assert [row.number for row in rows] == list(range(1, len(expected) + 1))


@settings(max_examples=150)
@given(text=st.text(alphabet='[]{}",:1e-. \n\\utrfalsn', max_size=30))
def test_a_broken_array_is_told_as_the_json_module_tells_it(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "y.json"
    path.write_text(f"[{text}", encoding="utf-8")
    try:
        expected = json.loads(f"[{text}")
    except json.JSONDecodeError as error:
        expected = (
            f"line {error.lineno}, column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        )
    problems = Problems("y", "row")
    if isinstance(expected, str):
        with pytest.raises(DataError, match=f"{expected}$"):
            list(JsonArray(path, "y").rows(problems))
    else:
        rows = [row.value for row in JsonArray(path, "y").rows(problems)]
        assert [value for value in expected if isinstance(value, dict)] == rows
        assert problems.count == len(expected) - len(rows)


def test_a_place_far_into_the_file_is_told_by_line_and_column(tmp_path, monkeypatch):
    monkeypatch.setattr(json_array, "_CHUNK_BYTES", 100)
    lines = ["[", *[f'{{"a": "{"x" * 50}"}},' for _ in range(200)], '{"a": }]']
    (tmp_path / "x.json").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(DataError, match=r"x: not JSON: Expecting value at line 202, column 7$"):
        list(JsonArray(tmp_path / "x.json", "x").rows(Problems("x", "row")))


@pytest.mark.parametrize("size", [1, 2, 3, 1 << 20])
def test_a_number_that_is_read_in_two_pieces_is_one(tmp_path, monkeypatch, size):
    monkeypatch.setattr(json_array, "_CHUNK_BYTES", size)
    (tmp_path / "x.json").write_text('[1234567, {"a": -12.5e3}, -12.5e3]', encoding="utf-8")
    problems = Problems("x", "row")
    assert [row.value for row in JsonArray(tmp_path / "x.json", "x").rows(problems)] == [{"a": -12500.0}]
    assert problems.count == 2
