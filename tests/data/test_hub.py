"""Data sets of the hub; a folder stands for one here, as `datasets` takes both."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import datasets
import pytest

from ptune.data.read import open_file
from ptune.errors import DataError

ROWS = [{"text": f"row {number}", "more": {"n": number, "gone": None}} for number in range(5)]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    for split, rows in (("train", ROWS), ("test", ROWS[:2])):
        path = tmp_path / "owner" / "name" / f"{split}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def values(named):
    file = open_file(Path(named))
    return [(row.number, row.value) for row in file.rows(file.problems())]


def test_a_split_is_read_row_by_row():
    expected = [(number + 1, {"text": f"row {number}", "more": {"n": number}}) for number in range(5)]
    assert values("hub:owner/name") == expected
    assert values("hub:owner/name@test") == expected[:2]
    assert values("hub:owner/name/default@train[:1]") == expected[:1]


def test_it_is_named_by_its_rows():
    train, test = open_file(Path("hub:owner/name")), open_file(Path("hub:owner/name@test"))
    assert train.sha256 != test.sha256
    assert test.sha256 == open_file(Path("hub:owner/name@train[:2]")).sha256
    assert train.size_bytes > test.size_bytes > 0


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("hub:name", r"hub:name: not the name of a data set: it is hub:OWNER/NAME\[/CONFIG\]\[@SPLIT\]"),
        ("hub:owner/none", "hub:owner/none: cannot be loaded from the hub: "),
        ("hub:owner/name@valid", "hub:owner/name@valid: cannot be loaded from the hub: .*valid"),
        ("hub:owner/name/none", "hub:owner/name/none: cannot be loaded from the hub: .*none"),
    ],
)
def test_what_cannot_be_loaded_is_told_in_one_line(named, message):
    with pytest.raises(DataError, match=message) as error:
        open_file(Path(named))
    assert "\n" not in str(error.value)


def test_without_datasets_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"pip install 'ptune\[data\]'"):
        open_file(Path("hub:owner/name"))
