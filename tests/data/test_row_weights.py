"""The column `weight` of chat rows and labelled texts: what it may hold, what a weight of 0 means, and what is told."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from ptune.config.chat import Chat
from ptune.config.classification import TextClassification
from ptune.config.distillation import Distillation
from ptune.config.recipe import Data
from ptune.data.clean import write_clean
from ptune.data.examples.dataset import Dataset
from ptune.data.label_splits import LabelSplits, read_splits
from ptune.data.shapes.row_weights import weight_of
from ptune.errors import DataError

from .conftest import load, row, write

BAD = [-1, -0.5, math.nan, math.inf, True, False, "2", "heavy", [1], {"weight": 1}, 1e-7, 1e7, 10**400]
NAMES = (
    "minus",
    "half",
    "nan",
    "inf",
    "true",
    "false",
    "text",
    "word",
    "list",
    "object",
    "small",
    "large",
    "huge",
)
HELD = [row(f"held out {number}") for number in range(3)]


def rows(*weights: Any) -> list[dict[str, Any]]:
    return [{**row(f"question {at}"), "weight": weight} for at, weight in enumerate(weights)]


def weights_of(data: Dataset) -> list[float]:
    return [example.weight for example in data.train]


def loaded(codec: Any, folder: Path, some: list[dict[str, Any]], **more: Any) -> Dataset:
    held = write(folder / "held.jsonl", HELD)
    return load(codec, write(folder / "a.jsonl", some), validation=(held,), **more)


@pytest.mark.parametrize(
    "shape",
    [
        row("q"),
        {"prompt": "q", "completion": "a"},
        {"prompt": [{"role": "user", "content": "q"}], "completion": "a"},
        {"instruction": "q", "output": "a"},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        {"text": "some words"},
    ],
    ids=["messages", "texts", "messages and text", "alpaca", "sharegpt", "raw text"],
)
def test_every_shape_of_chat_has_it(codec: Any, tmp_path: Path, shape: dict[str, Any]) -> None:
    some = [{**shape, "weight": 2}, {**shape, "weight": 0.25}, shape, {**shape, "weight": None}]
    data = loaded(codec, tmp_path, some)
    assert weights_of(data) == [2, 0.25, 1, 1]
    assert [example.ids for example in data.train] == [data.train[0].ids] * 4
    assert data.summary["files"][0]["unread_columns"] == []


def test_it_may_have_another_name(codec: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    some = [{**row("a"), "weight": "not read", "trust": 3}, {**row("b"), "weight": "neither", "trust": 1}]
    data = loaded(codec, tmp_path, some, task=Chat().with_columns({"weight": "trust"}))
    assert weights_of(data) == [3, 1]
    assert data.summary["files"][0]["weights"] == {"column": "trust", "least": 1.0, "most": 3.0}
    assert data.summary["files"][0]["unread_columns"] == ["weight"]
    assert "a row counts 1 to 3 times in the training loss (trust)" in capsys.readouterr().err
    with pytest.raises(
        DataError, match=r"a\.jsonl: has no column 'faith', which task\.columns\.weight names"
    ):
        loaded(codec, tmp_path, some, task=Chat().with_columns({"weight": "faith"}))


def test_numbers_of_csv_are_text(codec: Any, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,completion,weight\na,b,2\nc,d,\ne,f,.5\ng,h,0\n")
    held = write(tmp_path / "held.jsonl", HELD)
    assert weights_of(load(codec, tmp_path / "a.csv", validation=(held,))) == [2, 1, 0.5]
    (tmp_path / "a.csv").write_text("prompt,completion,weight\na,b,2\nc,d,heavy\n")
    with pytest.raises(DataError, match=r"a\.csv:3: weight is 'heavy': how often a row counts is a number"):
        load(codec, tmp_path / "a.csv", validation=(held,))


def test_parquet(codec: Any, tmp_path: Path) -> None:
    table = {"prompt": ["a", "b", "c"], "completion": ["x", "y", "z"], "weight": [2, None, 1]}
    parquet.write_table(pa.table(table), tmp_path / "a.parquet")
    held = write(tmp_path / "held.jsonl", HELD)
    assert weights_of(load(codec, tmp_path / "a.parquet", validation=(held,))) == [2, 1, 1]


@pytest.mark.parametrize("value", BAD, ids=NAMES)
def test_what_is_no_weight_is_refused_with_file_and_line(codec: Any, tmp_path: Path, value: Any) -> None:
    with pytest.raises(DataError) as caught:
        loaded(codec, tmp_path, rows(1, value, 2))
    assert str(caught.value).startswith(f"{tmp_path / 'a.jsonl'}:2: ")
    assert "weight" in str(caught.value) or "not JSON" in str(caught.value)


@pytest.mark.parametrize("value", BAD, ids=NAMES)
def test_what_is_no_weight_is_not_in_a_clean_copy(tmp_path: Path, value: Any) -> None:
    cleaned = write_clean(write(tmp_path / "a.jsonl", rows(1, value, 2)), Chat(), tmp_path / "clean")
    assert (cleaned.kept, cleaned.unusable) == (2, 1)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=300)
@given(JSON, st.booleans())
def test_any_value_is_a_weight_or_refused(value: Any, text: bool) -> None:
    if text and isinstance(value, str) and value:
        with contextlib.suppress(DataError):
            weight = weight_of({"weight": value}, "weight", text=True)
            assert weight == float(value)
            assert weight == 0 or 1e-6 <= weight <= 1e6
        return
    wanted = float(value) if type(value) in (int, float) and (value == 0 or 1e-6 <= value <= 1e6) else None
    if value is None or (text and value == ""):
        wanted = 1.0
    if wanted is None:
        with pytest.raises(DataError, match="weight is "):
            weight_of({"weight": value}, "weight", text=text)
    else:
        assert weight_of({"weight": value}, "weight", text=text) == wanted


def test_a_row_of_weight_0_is_as_if_it_were_not_there(
    codec: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    some = rows(*[at % 4 for at in range(40)])
    whole = load(codec, write(tmp_path / "a.jsonl", some))
    assert "a.jsonl: left out: 10 rows of weight 0" in capsys.readouterr().err
    short = load(codec, write(tmp_path / "b.jsonl", [one for one in some if one["weight"]]))
    assert list(whole.train) == list(short.train)
    assert list(whole.validation) == list(short.validation)
    assert whole.summary["train"] == short.summary["train"]
    assert whole.summary["files"][0]["left_out"] == {"rows of weight 0": 10}
    with pytest.raises(DataError, match=r"a\.jsonl: each row has weight 0, so that none is left"):
        load(codec, write(tmp_path / "a.jsonl", rows(0, 0.0)))


def test_rows_that_count_once_are_rows_without_weights(codec: Any, tmp_path: Path) -> None:
    some = rows(*[1] * 20)
    ones = load(codec, write(tmp_path / "a.jsonl", some))
    bare = [{"messages": one["messages"]} for one in some]
    plain = load(codec, write(tmp_path / "b.jsonl", bare))
    assert list(ones.train) == list(plain.train)
    for split in ("train", "validation"):
        assert ones.summary[split] == plain.summary[split]
    assert "weights" not in ones.summary["files"][0]
    twice = load(codec, write(tmp_path / "c.jsonl", rows(*[2] * 20)))
    assert twice.summary["train"]["sha256"] != plain.summary["train"]["sha256"]
    assert [example.ids for example in twice.train] == [example.ids for example in plain.train]


def test_what_is_held_out_counts_once(codec: Any, tmp_path: Path) -> None:
    data = load(codec, write(tmp_path / "a.jsonl", rows(*[3] * 20)))
    assert {example.weight for example in data.validation} == {1}
    assert {example.weight for example in data.train} == {3}


def test_each_piece_of_a_text_has_its_weight(codec: Any, tmp_path: Path) -> None:
    some = [{"text": "word " * 200, "weight": 0.5}, {"text": "short", "weight": 2}]
    data = loaded(codec, tmp_path, some, task=Chat(max_length=64))
    assert len(data.train) > 3
    assert weights_of(data) == [0.5] * (len(data.train) - 1) + [2]


def test_only_the_plain_loss_has_weights(codec: Any, tmp_path: Path) -> None:
    data = loaded(codec, tmp_path, rows(1, 2), task=Distillation())
    assert weights_of(data) == [1, 1]
    assert data.summary["files"][0]["unread_columns"] == ["weight"]
    with pytest.raises(ValueError, match=r"columns\.weight is for task Chat"):
        Distillation.model_validate({"columns": {"weight": "trust"}})


def labelled(path: Path, weights: list[Any], **more: Any) -> LabelSplits:
    some = [
        {"text": f"text {at}", "label": "ab"[at % 2], "weight": weight} for at, weight in enumerate(weights)
    ]
    path.write_text("".join(json.dumps(one) + "\n" for one in some if one["weight"] != "absent"))
    splits = read_splits(Data(files=(path,)), TextClassification(**more), 0)
    splits.check()
    return splits


def test_labelled_texts_have_it(tmp_path: Path) -> None:
    weights = [at % 4 for at in range(40)]
    splits = labelled(tmp_path / "a.jsonl", weights)
    short = labelled(tmp_path / "b.jsonl", [weight or "absent" for weight in weights])
    for split in ("train", "validation"):
        found, wanted = (
            [(placed.row.input, placed.row.weight) for placed in of.rows[split]] for of in (splits, short)
        )
        assert found == wanted
        assert all(weight == int(text.split()[1]) % 4 for text, weight in found)
    (_, file), *_ = splits.files
    assert file.described()["left_out"] == {"rows of weight 0": 10}
    assert file.described()["weights"] == {"column": "weight", "least": 1.0, "most": 3.0}
    assert file.unread == ()


@pytest.mark.parametrize("value", BAD, ids=NAMES)
def test_what_is_no_weight_of_a_text_is_refused_with_file_and_line(tmp_path: Path, value: Any) -> None:
    with pytest.raises(DataError) as caught:
        labelled(tmp_path / "a.jsonl", [1, value, 1])
    assert str(caught.value).startswith(f"{tmp_path / 'a.jsonl'}:2: ")


def test_a_column_that_no_file_of_texts_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.jsonl: has no column 'trust'"):
        labelled(tmp_path / "a.jsonl", [1, 1, 1], columns={"weight": "trust"})
    with pytest.raises(DataError, match="each row has weight 0"):
        labelled(tmp_path / "a.jsonl", [0, 0])
