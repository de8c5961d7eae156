"""Rows in memory, of whatever kind, are the file that holds them."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptune.api.rows import files_of, splits_of
from ptune.errors import DataError

ROWS = [{"text": "grüße", "label": "good", "n": 1}, {"text": "b", "label": "bad", "n": 2}]


def written(source: Any, tmp_path: Path, named: str = "data") -> list[Any]:
    (file,) = files_of(source, tmp_path / "rows" / "train.jsonl", named)
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def as_pandas() -> Any:
    return pytest.importorskip("pandas").DataFrame(ROWS)


def as_dataset() -> Any:
    datasets = pytest.importorskip("datasets")
    label = datasets.ClassLabel(names=["bad", "good"])
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": label, "n": datasets.Value("int64")}
    )
    return datasets.Dataset.from_list(
        [{**row, "label": row["label"] == "good"} for row in ROWS], features=features
    )


def as_arrow() -> Any:
    return pytest.importorskip("pyarrow").Table.from_pylist(ROWS)


@pytest.mark.parametrize("make", [lambda: ROWS, lambda: iter(ROWS), as_pandas, as_dataset, as_arrow])
def test_every_kind_of_table_gives_the_same_rows(make: Callable[[], Any], tmp_path: Path) -> None:
    assert written(make(), tmp_path) == ROWS


def test_paths_stay_what_they_are(tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    assert files_of("a.csv", file, "data") == (Path("a.csv"),)
    assert files_of(["a.csv", Path("b.csv")], file, "data") == (Path("a.csv"), Path("b.csv"))
    assert not file.exists()


def test_numbers_and_gaps_of_numpy_and_pandas(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    row = {
        "a": np.float32(0.5), "b": np.array([1, 2]), "c": float("nan"), "d": pandas.NaT, "e": pandas.NA,
        "f": datetime.date(2025, 1, 2), "g": {"h": np.int64(3)},
    }  # fmt: skip
    expected = {"a": 0.5, "b": [1, 2], "c": None, "d": None, "e": None, "f": "2025-01-02", "g": {"h": 3}}
    assert written([row], tmp_path) == [expected]


def test_tags_of_a_dataset_get_their_names(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    tags = datasets.Sequence(datasets.ClassLabel(names=["O", "B-PER"]))
    features = datasets.Features({"tokens": datasets.Sequence(datasets.Value("string")), "tags": tags})
    data = datasets.Dataset.from_list([{"tokens": ["Anna", "ran"], "tags": [1, 0]}], features=features)
    assert written(data, tmp_path) == [{"tokens": ["Anna", "ran"], "tags": ["B-PER", "O"]}]


def test_pictures_lie_beside_the_rows_without_loss(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    (row,) = written([{"image": image.fromarray(pixels), "label": "x"}], tmp_path)
    with image.open(tmp_path / "rows" / row["image"]) as saved:
        np.testing.assert_array_equal(np.asarray(saved), pixels)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], "data holds no rows"),
        ([{"a": 1}, "b"], "row 2 of data is str, not a dict"),
        ([{"a": object()}], "row 1 of data: column 'a' holds a value of type object"),
        (3, "data of type int cannot be read"),
    ],
)
def test_what_cannot_be_used_is_said(source: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        written(source, tmp_path)
    assert not list(tmp_path.rglob("*.part"))


def test_a_dict_of_splits_and_a_dict_that_is_none() -> None:
    assert splits_of({"train": ROWS, "valid": ROWS[:1]}) == {"train": ROWS, "validation": ROWS[:1]}
    with pytest.raises(DataError, match="a dict with the keys 'text', 'label'"):
        splits_of({"text": ["a"], "label": ["b"]})
