"""Who had what: what is held out is what the hash, or time, says; histories become pairs of titles."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from ptune.config.recipe import Data, Recipe
from ptune.config.recommendation import Recommendation
from ptune.data.shapes.interactions import read_interactions
from ptune.errors import DataError

HAD = [("ann", item) for item in "abcde"] + [("bob", item) for item in "bc"] + [("cid", "a")]


def recipe(folder: Path, rows: str, name: str = "had.csv", **task: object) -> Recipe:
    (folder / name).write_text(rows)
    (folder / "items.csv").write_text("item,title\n" + "".join(f"{one},the {one}\n" for one in "abcdef"))
    return Recipe(
        task=Recommendation(items=folder / "items.csv", **task),  # type: ignore[arg-type]
        data=Data(files=(folder / name,)),
    )


def rows(had: list[tuple[str, str]]) -> str:
    return "user,item\n" + "".join(f"{user},{item}\n" for user, item in had)


def rank(user: str, item: str) -> str:
    return hashlib.sha256(f"{user}|{item}".encode()).hexdigest()


def test_the_smallest_hash_is_the_test_and_the_next_validates(tmp_path: Path) -> None:
    found = read_interactions(recipe(tmp_path, rows(HAD)))
    found.check()
    ann, bob, cid = found.histories
    order = sorted("abcde", key=lambda item: rank("ann", item))
    assert ann.test is not None
    assert ann.validation is not None
    assert [ann.test.item, ann.validation.item] == order[:2]
    assert {row.item for row in ann.train} == set(order[2:])
    assert bob.test is not None
    assert bob.test.item == min("bc", key=lambda item: rank("bob", item))
    assert bob.validation is None
    assert len(bob.train) == 1
    assert cid.test is None
    assert [row.item for row in cid.train] == ["a"]


@pytest.mark.parametrize(
    "times",
    [
        ["2024-01-31", "2024-02-01", "2024-10-01"],
        ["2024-03-31 00:30:00", "2024-03-31 01:30:00", "2024-03-31 02:30:00.5"],
        ["2024-01-01T09:00:00+02:00", "2024-01-01T08:00:00", "2024-01-01T07:30:00-01:00"],
        ["9", "10", "1e3"],
    ],
)
def test_times_may_be_dates(tmp_path: Path, times: list[str]) -> None:
    had = [("c", times[2]), ("a", times[0]), ("b", times[1])]
    content = "user,item,time\n" + "".join(f"ann,{item},{time}\n" for item, time in had)
    found = read_interactions(recipe(tmp_path, content))
    found.check()
    assert [row.item for row in found.histories[0].kept] == ["a", "b", "c"]


def test_times_of_parquet_are_those_of_utc(tmp_path: Path) -> None:
    moments = [datetime(2024, 1, 2, 3), datetime(1970, 1, 1, 0, 1)]
    table = pyarrow.table({"user": ["ann", "ann"], "item": ["a", "b"], "time": moments})
    config = recipe(tmp_path, "", "had.parquet")
    parquet.write_table(table, tmp_path / "had.parquet")
    found = read_interactions(config)
    found.check()
    assert {row.item: row.time for row in found.rows} == {"a": 1704164400.0, "b": 60.0}


def test_pairs_are_a_ring_of_training_items_only(tmp_path: Path) -> None:
    found = read_interactions(recipe(tmp_path, rows(HAD)))
    pairs = found.pairs().rows
    train = {row.item for row in found.histories[0].train}
    assert len(pairs["train"]) == 3
    assert {row.anchor for row in pairs["train"]} == {row.positive for row in pairs["train"]}
    assert {row.positive for row in pairs["train"]} == {f"the {item}" for item in train}
    assert [len(pairs[split]) for split in ("validation", "test")] == [1, 2]
    assert pairs["train"][0].place.startswith(str(tmp_path / "had.csv"))


def test_with_time_the_newest_is_the_test(tmp_path: Path) -> None:
    text = "user_id,item_id,timestamp\n" + "".join(f"1,{item},{at}\n" for at, item in enumerate("ebdca"))
    found = read_interactions(recipe(tmp_path, text))
    (history,) = found.histories
    assert [row.item for row in history.kept] == list("ebdca")
    assert [(row.anchor, row.positive) for row in found.pairs().rows["train"]] == [
        ("the e", "the b"),
        ("the b", "the d"),
    ]


def test_withheld_items_are_in_no_pair(tmp_path: Path) -> None:
    had = [(f"u{user}", item) for user in range(6) for item in "abcdef"]
    found = read_interactions(recipe(tmp_path, rows(had), withheld=2))
    gone = sorted("abcdef", key=lambda item: hashlib.sha256(item.encode()).digest())[:2]
    assert found.withheld == set(gone)
    texts = {
        text for split in found.pairs().rows.values() for row in split for text in (row.anchor, row.positive)
    }
    assert texts == {f"the {item}" for item in "abcdef" if item not in gone}
    assert all({row.item for row in one.withheld} == set(gone) for one in found.histories)


def test_jsonl_and_parquet_are_read_too(tmp_path: Path) -> None:
    lines = [{"user": 1, "item": item} for item in "abc"]
    found = read_interactions(recipe(tmp_path, "".join(json.dumps(one) + "\n" for one in lines), "had.jsonl"))
    assert [row.user for row in found.rows] == ["1"] * 3
    asked = recipe(tmp_path, rows(HAD))
    parquet.write_table(
        pyarrow.table({"user": [1, 1], "item": ["a", "b"], "time": [2.5, 1.0]}), tmp_path / "had.parquet"
    )
    asked = asked.model_copy(update={"data": Data(files=(tmp_path / "had.parquet",))})
    (history,) = read_interactions(asked).histories
    assert [row.item for row in history.kept] == ["b", "a"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("user,thing\na,b\n", "no column 'item'"),
        ("user,item\n,a\n", "has no user"),
        ("user,item,time\nx,a,soon\n", "'soon' is not a number"),
        ("user,item,time\nx,a,1\nx,b,2024-13-01\n", "'2024-13-01' is not a number"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_interactions(recipe(tmp_path, text)).check()


def test_an_item_without_a_title_is_known_by_its_name(tmp_path: Path) -> None:
    asked = recipe(tmp_path, rows(HAD))
    (tmp_path / "items.csv").write_text("item,title\na,the a\nb,\nc, \nd,the d\ne,the e\n")
    found = read_interactions(asked)
    assert [found.titles[item] for item in "abc"] == ["the a", "b", "c"]
    assert [item for item, _, _ in found.untitled] == ["b", "c"]


def test_files_that_mean_nothing_here_are_refused(tmp_path: Path) -> None:
    asked = recipe(tmp_path, rows(HAD))
    for data in (Data(), Data(files=asked.data.files, test=asked.data.files)):
        with pytest.raises(DataError, match=r"data\."):
            read_interactions(asked.model_copy(update={"data": data}))


def test_pairs_to_train_on_stand_file_after_file(tmp_path: Path) -> None:
    """As the parts of a mixture do, of which `data.weights` says how much is trained on."""
    had = [(user, item) for user in ("ann", "bob", "cid") for item in "abcdef"]
    one, other = recipe(tmp_path, rows(had[::2]), "one.csv"), recipe(tmp_path, rows(had[1::2]), "other.csv")
    both = one.model_copy(update={"data": Data(files=(*one.data.files, *other.data.files))})
    files = [pair.file.name for pair in read_interactions(both).pairs().rows["train"]]
    assert len(set(files)) == 2
    assert files == sorted(files)  # by name, too
