"""Rows with labels: which columns and files there can be, what the labels are, and what is said of what cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from ptune.codecs.labels import Labels
from ptune.config.classification import TextClassification, TokenClassification
from ptune.config.recipe import Data
from ptune.data.label_splits import LabelSplits, read_splits
from ptune.data.shapes.labelled import TextTask, read_labelled
from ptune.errors import DataError

GOOD = "text,label\nso fine,good\nso sad,bad\nso so,good\nso what,bad\n"
CONLL = """-DOCSTART- -X- O O

# id = 1
Press NN O
Ctrl NN B-KEY
+ SYM I-KEY

Open\tB-GUI
it\tO
"""


def rows_of(values: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


def splits_of(
    folder: Path, name: str, content: str, task: TextTask | None = None, **data: Any
) -> LabelSplits:
    (folder / name).write_text(content, encoding="utf-8")
    splits = read_splits(Data(files=(folder / name,), **data), task or TextClassification(), 0)
    splits.check()
    return splits


def rows(splits: LabelSplits) -> dict[Any, Any]:
    assert splits.labels is not None
    return {placed.row.input: placed.row.label for split in splits.rows.values() for placed in split}


@pytest.mark.parametrize(
    ("name", "content", "problem", "names", "labels"),
    [
        ("a.csv", GOOD, "single", ("bad", "good"), [1, 0, 1, 0]),
        ("a.csv", GOOD.replace(",", ";"), "single", ("bad", "good"), [1, 0, 1, 0]),
        ("a.tsv", GOOD.replace(",", "\t"), "single", ("bad", "good"), [1, 0, 1, 0]),
        ("a.csv", "sentence,label\na,10\nb,2\nc,10\n", "single", ("2", "10"), [1, 0, 1]),
        ("a.csv", "text,label\na,1\nb,2.5\nc,-1e2\n", "regression", ("value",), [1.0, 2.5, -100.0]),
        ("a.csv", 'text,labels\na,"[""x"", ""y""]"\nb,[]\n', "multi", ("x", "y"), [(0, 1), ()]),
        ("a.jsonl", rows_of([{"text": "a", "label": True}, {"text": "b", "label": False}]), "single", ("false", "true"), [1, 0]),
        ("a.jsonl", rows_of([{"text": "a", "label": 1.5}, {"text": "b", "label": 2}]), "regression", ("value",), [1.5, 2.0]),
        ("a.jsonl", rows_of([{"text": "a", "labels": ["y", "x"]}, {"text": "b", "labels": []}]), "multi", ("x", "y"), [(0, 1), ()]),
        ("a.jsonl", rows_of([{"text": "a", "labels": [1, 0, 1]}, {"text": "b", "labels": [0, 0, 0]}]), "multi", ("0", "2"), [(0, 1), ()]),
        ("a.jsonl", rows_of([{"text": "a", "labels": [0.0, 1.0]}, {"text": "b", "labels": [1.0, 1.0]}]), "multi", ("0", "1"), [(1,), (0, 1)]),
        ("a.csv", 'text,labels\na,"[true, false]"\nb,"[false, true]"\n', "multi", ("0", "1"), [(0,), (1,)]),
        ("a.jsonl", rows_of([{"text": "a", "labels": [0, 1]}, {"text": "b", "labels": [2]}]), "multi", ("0", "1", "2"), [(0, 1), (2,)]),
        ("a.jsonl", rows_of([{"text": "a", "labels": [False, True]}, {"text": "b", "labels": [False, True]}]), "multi", ("1",), [(0,), (0,)]),
        ("a.jsonl", rows_of([{"text": "a", "labels": [1, 0]}, {"text": "b", "labels": [1]}]), "multi", ("0", "1"), [(0, 1), (1,)]),
        ("a.json", json.dumps([{"text": "a", "label": 3}, {"text": "b", "label": 4}]), "single", ("3", "4"), [0, 1]),
    ],
)  # fmt: skip
def test_labels_are_what_the_column_holds(
    tmp_path: Path, name: str, content: str, problem: str, names: tuple[str, ...], labels: list[Any]
) -> None:
    splits = splits_of(tmp_path, name, content)
    assert splits.labels == Labels(names, problem)  # type: ignore[arg-type]
    assert sorted(map(repr, rows(splits).values())) == sorted(map(repr, labels))


def test_columns_of_parquet(tmp_path: Path) -> None:
    table = pa.table({"text": ["a", "b"], "labels": [["x"], ["y", "x"]], "source": ["web", "mail"]})
    parquet.write_table(table, tmp_path / "a.parquet")
    task, labels = TextClassification(), Labels(("x", "y"), "multi")
    first, second = read_labelled([tmp_path / "a.parquet"], task, labels)
    assert (first.label, second.label) == ((0,), (0, 1))
    assert second.columns == {"source": "mail"}
    assert second.place == f"{tmp_path / 'a.parquet'}, row 2"


def test_pairs_and_labels_that_the_recipe_names(tmp_path: Path) -> None:
    content = rows_of(
        [{"text": "a", "text_pair": "b", "label": 1}, {"text": "a", "text_pair": "c", "label": "no"}]
    )
    splits = splits_of(tmp_path, "a.jsonl", content, TextClassification(labels=("no", "yes")))
    assert rows(splits) == {("a", "b"): 1, ("a", "c"): 0}


def test_ones_and_zeros_for_labels_that_the_recipe_names(tmp_path: Path) -> None:
    content = rows_of([{"text": "a", "labels": [0, 0, 1]}, {"text": "b", "labels": [1, 0, 1]}])
    task = TextClassification(labels=("joy", "fear", "rage"))
    splits = splits_of(tmp_path, "a.jsonl", content, task)
    assert splits.labels == Labels(("joy", "fear", "rage"), "multi")
    assert rows(splits) == {"a": (2,), "b": (0, 2)}
    held = read_labelled([tmp_path / "a.jsonl"], task, splits.labels)
    assert [row.label for row in held] == [(2,), (0, 2)]


@pytest.mark.parametrize(
    ("others", "learned"),
    [([[1, 0], [1, 1]], (1,)), ([[0], [1], [0, 1]], (0, 1)), ([["0"], ["1"]], None), ([[0, 1]], None)],
)
def test_lists_of_zero_and_one_are_what_those_of_the_other_files_are(
    tmp_path: Path, others: list[Any], learned: Any
) -> None:
    """A file of [0, 1] alone, the validation's or one of several, was taken for numbers of two labels."""
    held = tmp_path / "held.jsonl"
    held.write_text(rows_of([{"text": "x", "labels": [0, 1]}, {"text": "y", "labels": [0, 1]}]))
    content = rows_of([{"text": str(at), "labels": labels} for at, labels in enumerate(others)])
    if learned is None:
        with pytest.raises(DataError, match=r"every label is the list \[0, 1\]"):
            splits_of(tmp_path, "a.jsonl", content, validation=(held,))
    else:
        splits = splits_of(tmp_path, "a.jsonl", content, validation=(held,))
        assert [placed.row.label for placed in splits.rows["validation"]] == [learned, learned]


def test_lists_of_zero_and_one_beside_labels_that_are_known(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(rows_of([{"text": "a", "labels": [0, 1]}]))
    three, two = ("joy", "fear", "rage"), ("joy", "fear")
    (row,) = read_labelled([tmp_path / "a.jsonl"], TextClassification(labels=three), Labels(three, "multi"))
    assert row.label == (0, 1)
    with pytest.raises(DataError, match=r"write the names of labels that apply"):
        read_labelled([tmp_path / "a.jsonl"], TextClassification(labels=two), Labels(two, "multi"))


def test_shares_of_labels_are_refused(tmp_path: Path) -> None:
    content = rows_of([{"text": "a", "labels": [0.8, 0.2]}, {"text": "b", "labels": [0.5, 0.5]}])
    with pytest.raises(DataError, match="says 1 or 0 of each label"):
        splits_of(tmp_path, "a.jsonl", content)


def test_numbers_of_labels_that_the_recipe_names(tmp_path: Path) -> None:
    task = TextClassification(labels=("no", "yes"))
    assert rows(splits_of(tmp_path, "a.csv", "text,label\na,0\nb,1\nc,yes\n", task)) == {
        "a": 0,
        "b": 1,
        "c": 1,
    }
    with pytest.raises(DataError, match="label '2' is unknown"):
        splits_of(tmp_path, "a.csv", "text,label\na,0\nb,2\nc,yes\n", task)


def test_a_number_is_no_index_where_names_are_numbers(tmp_path: Path) -> None:
    content = rows_of([{"text": "a", "label": 0}, {"text": "b", "label": 1}, {"text": "c", "label": 2}])
    with pytest.raises(DataError, match="label '0' is unknown: known are '1', '2'"):
        splits_of(tmp_path, "a.jsonl", content, TextClassification(labels=("1", "2")))


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_whole_numbers_that_no_float_holds(tmp_path: Path, name: str) -> None:
    huge = "1" + "0" * 400
    written = {
        "a.csv": f"text,label\na,{huge}\nb,2\n",
        "a.jsonl": f'{{"text": "a", "label": {huge}}}\n{{"text": "b", "label": 2}}\n',
    }
    with pytest.raises(DataError, match="is not a number, as task"):
        splits_of(tmp_path, name, written[name], TextClassification(problem="regression"))


def test_texts_of_several_labels_parted_by_bars(tmp_path: Path) -> None:
    task = TextClassification(problem="multi")
    splits = splits_of(tmp_path, "a.csv", "text,label\na,x|y\nb,\nc,y\n", task)
    assert rows(splits) == {"a": (0, 1), "b": (), "c": (1,)}


def test_conll(tmp_path: Path) -> None:
    splits = splits_of(tmp_path, "a.conll", CONLL, TokenClassification())
    assert splits.labels == Labels(("O", "B-GUI", "B-KEY", "I-KEY"), "tags")
    assert rows(splits) == {("Press", "Ctrl", "+"): (0, 2, 3), ("Open", "it"): (1, 0)}
    assert sorted(p.number for split in splits.rows.values() for p in split) == [4, 8]


def test_a_word_may_be_a_hash(tmp_path: Path) -> None:
    splits = splits_of(tmp_path, "a.bio", "# O\n1 B-N\n\n# B-N\nx O\n", TokenClassification())
    assert set(rows(splits)) == {("#", "1"), ("#", "x")}


@pytest.mark.parametrize("tags", ["tags", "ner_tags", "labels"])
def test_tags_as_numbers_of_named_labels(tmp_path: Path, tags: str) -> None:
    content = rows_of([{"tokens": ["a", "b"], tags: [0, 1]}, {"tokens": ["c"], tags: [2]}])
    task = TokenClassification(labels=("O", "B-X", "I-X"))
    assert rows(splits_of(tmp_path, "a.jsonl", content, task)) == {("a", "b"): (0, 1), ("c",): (2,)}
    with pytest.raises(DataError, match=r"the tags are numbers: name them in their order by task\.labels"):
        splits_of(tmp_path, "a.jsonl", content, TokenClassification())


def test_words_in_a_csv(tmp_path: Path) -> None:
    content = 'tokens,tags\n"[""a"", ""b""]","[""O"", ""B-X""]"\n"[""c""]","[""O""]"\n'
    assert rows(splits_of(tmp_path, "a.csv", content, TokenClassification())) == {
        ("a", "b"): (0, 1),
        ("c",): (0,),
    }


BAD = [
    ("a.csv", "body,stars\na,1\n", r"a\.csv: has no column 'text' or 'sentence' and no column 'label' or 'labels'; there are 'body', 'stars'"),
    ("a.csv", "text,stars\na,1\n", r"has no column 'label' or 'labels'; there are 'text', 'stars' \(the first line must name the columns\)"),
    ("a.csv", "text|label\na|1\n", r"there is only 'text\|label': are its columns parted by '\|'\? ptune reads , ; and tab"),
    ("a.tsv", "text,label\na,b\n", r"there is only 'text,label': are its columns parted by ','\?"),
    ("a.csv", "text,label\na,x\n ,y\n,x\n", r"2 of 3 lines cannot be used\n  line 3: text is empty \(and 1 more like it\)"),
    ("a.csv", "text,label\na,x\nb,\nc,y\n", r"a\.csv:3: label is empty"),
    ("a.csv", "text,label\na,x\nb,y,z\n", r"a\.csv:3: has 3 fields, the header has 2"),
    ("a.jsonl", '{"text": "a", "label": "x"}\n{"text": "b"}\n', r"a\.jsonl:2: has no label"),
    ("a.jsonl", '{"text": "a", "label": "x"}\n{"text": 7, "label": "x"}\n', r":2: text is int, not text"),
    ("a.jsonl", '{"text": "a", "label": "x"}\n{"text": "b", "label": {"x": 1}}\n', r":2: label is dict \{'x': 1\}"),
    ("a.jsonl", '{"text": "a", "label": "x"}\n{"text": "\\ud83d", "label": "x"}\n', r":2: text holds \\ud83d, half of a"),
    ("a.jsonl", '{"text": "a", "text_pair": "b", "label": 1}\n{"text": "a", "label": 1}\n', r":2: has no text_pair"),
    ("a.csv", "text,label\na,x\na,x\n", r"all rows hold the same input: nothing would be left to train on"),
    ("a.csv", "text,label\na,x\n", r"1 row is too few to hold any out"),
    ("a.csv", "text,label\n", r"the file holds no rows"),
    ("missing.csv", None, r"missing\.csv: there is no such file"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "said"), BAD)
def test_texts_that_cannot_be_used(tmp_path: Path, name: str, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content, encoding="utf-8")
    splits = read_splits(Data(files=(tmp_path / name,)), TextClassification(), 0)
    with pytest.raises(DataError, match=said):
        splits.check()


BAD_TAGS = [
    ("a.conll", "Press O\nCtrl\n\nOpen O\nit O\n", r"a\.conll:2: has no tag: 'Ctrl' stands alone"),
    ("a.jsonl", rows_of([{"tokens": ["a", "b"], "tags": ["O"]}]), r":1: has 2 tokens and 1 tags: each needs one"),
    ("a.jsonl", rows_of([{"tokens": [], "tags": []}]), r":1: tokens is empty"),
    ("a.jsonl", rows_of([{"tokens": ["a", " "], "tags": ["O", "O"]}]), r":1: tokens\[1\] is empty"),
    ("a.jsonl", rows_of([{"tokens": "a b", "tags": ["O", "O"]}]), r":1: tokens is 'a b', not a list in JSON"),
    ("a.jsonl", rows_of([{"tokens": ["a"], "tags": ["O"]}, {"tokens": ["a"], "tags": [None]}]), r":2: an item of tags is NoneType"),
    ("a.jsonl", rows_of([{"words": ["a"], "tags": ["O"]}]), r"has no column 'tokens'; there are 'words', 'tags'"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "said"), BAD_TAGS)
def test_words_that_cannot_be_used(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=said):
        read_splits(Data(files=(tmp_path / name,)), TokenClassification(), 0).check()


def test_bytes_that_are_no_text_in_conll(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_bytes(b"a O\n\n\xff\xfe O\nb O\n\nc O\n")
    with pytest.raises(DataError, match=r"a\.conll:3: not UTF-8: byte 0xff at offset 5"):
        read_splits(Data(files=(tmp_path / "a.conll",)), TokenClassification(), 0).check()


@pytest.mark.parametrize("split", ["validation", "test"])
def test_unknown_labels_are_named_with_file_row_and_those_known(tmp_path: Path, split: str) -> None:
    (tmp_path / "train.csv").write_text(GOOD, encoding="utf-8")
    (tmp_path / "held.csv").write_text("text,label\nx,good\ny,god\nz,god\n", encoding="utf-8")
    held: dict[str, Any] = {split: (tmp_path / "held.csv",)}
    data = Data(files=(tmp_path / "train.csv",), **held)
    with pytest.raises(DataError) as caught:
        read_splits(data, TextClassification(), 0).check()
    assert str(caught.value) == (
        f"{tmp_path / 'held.csv'}: 2 of 3 lines cannot be used\n"
        "  line 3: label 'god' is unknown: known are 'bad', 'good'; is 'good' meant? (and 1 more like it)"
    )
    with pytest.raises(DataError, match="label 'god' is unknown"):
        read_labelled([tmp_path / "held.csv"], TextClassification(), Labels(("bad", "good"), "single"))


def test_a_number_that_is_none_and_a_list_where_one_label_is_meant(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r":3: label 'many' is not a number, as task\.problem regression needs"
    ):
        splits_of(tmp_path, "a.csv", "text,label\na,1\nb,many\n", TextClassification(problem="regression"))
    content = rows_of([{"text": "a", "label": ["x"]}, {"text": "b", "label": "x"}])
    with pytest.raises(DataError, match=r":1: label is a list, \['x'\]: a list needs task\.problem multi"):
        splits_of(tmp_path, "a.jsonl", content, TextClassification(problem="single", labels=("x", "y")))
    with pytest.raises(DataError, match=r"task\.labels names a label twice: x, x"):
        splits_of(tmp_path, "a.csv", GOOD, TextClassification(labels=("x", "x")))


def test_held_out_rows_depend_on_content_and_seed_alone(tmp_path: Path) -> None:
    lines = [f"text number {number},{'ab'[number % 2]}" for number in range(60)]
    found = []
    for order in (lines, lines[::-1]):
        splits = splits_of(tmp_path, "a.csv", "text,label\n" + "\n".join(order), validation_share=0.2)
        found.append({placed.row.input for placed in splits.rows["validation"]})
    assert found[0] == found[1]
    assert len(found[0]) == 12
    other = read_splits(Data(files=(tmp_path / "a.csv",), validation_share=0.2), TextClassification(), 1)
    assert {placed.row.input for placed in other.rows["validation"]} != found[0]


def test_copies_of_a_text_stay_on_one_side(tmp_path: Path) -> None:
    lines = [f"text {number % 10},{'ab'[number // 10 % 2]}" for number in range(100)]
    splits = splits_of(tmp_path, "a.csv", "text,label\n" + "\n".join(lines), validation_share=0.15)
    sides = [{placed.row.input for placed in splits.rows[name]} for name in ("train", "validation")]
    assert not sides[0] & sides[1]
    assert len(splits.rows["validation"]) == 20


def test_limit_and_all_splits(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text(GOOD.replace("so", f"{name} so"), encoding="utf-8")
    files = (tmp_path / "a.csv", tmp_path / "b.csv")
    splits = read_splits(Data(files=files, test=files[:1], limit=3), TextClassification(), 0)
    splits.check()
    assert [len(splits.rows[name]) for name in ("train", "validation", "test")] == [3, 1, 4]
