"""A clean copy of a data file: what cannot be used and what stands there twice is left out, all else is as it was."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptune.codecs.chat import ChatCodec
from ptune.config.chat import Chat
from ptune.config.classification import ImageClassification, TextClassification, TokenClassification
from ptune.config.columns import TextColumns
from ptune.config.preference import Preference
from ptune.config.recipe import Data
from ptune.config.task_spec import TaskSpec
from ptune.data.clean import write_clean, write_clean_copies
from ptune.data.examples import dataset
from ptune.data.label_splits import read_splits
from ptune.errors import DataError


def _lines(path: Path | str) -> list[Any]:
    if Path(path).suffix == ".csv":
        return list(csv.DictReader(Path(path).read_text(encoding="utf-8").splitlines()))
    with Path(path).open(encoding="utf-8") as file:  # `splitlines` also ends lines at U+0085 and the like
        return [json.loads(line) for line in file]


def _write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _talk(question: object, answer: object) -> str:
    return json.dumps(
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
    )


def test_conversations(tmp_path: Path) -> None:
    lines = [
        _talk("a", "b"),
        "{not json",
        _talk("a", "c"),
        _talk("a", "b"),
        '{"messages": "none"}',
        _talk("d", "é🙂"),
    ]
    path = _write(tmp_path / "talks.jsonl", lines)
    cleaned = write_clean(path, Chat(), tmp_path / "out")
    assert cleaned.copy == str(tmp_path / "out" / "talks.clean.jsonl")
    assert (cleaned.kept, cleaned.unusable, cleaned.copies) == (3, 2, 1)
    assert _lines(cleaned.copy) == [json.loads(lines[at]) for at in (0, 2, 5)]
    assert path.read_text(encoding="utf-8") == "\n".join(lines) + "\n", "the file itself stays"


def test_answers_that_teach_nothing_are_left_out(tmp_path: Path) -> None:
    called = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"function": {"name": "f", "arguments": {}}}],
    }
    calls = json.dumps({"messages": [{"role": "user", "content": "a"}, called]})
    talks = _write(tmp_path / "t.jsonl", [_talk("a", "b"), _talk("a", " "), calls])
    assert write_clean(talks, Chat(), tmp_path).unusable == 1, "a call of a tool is an answer"
    pairs = [json.dumps({"prompt": "a", "chosen": "b", "rejected": other}) for other in "bc"]
    assert write_clean(_write(tmp_path / "p.jsonl", pairs), Preference(), tmp_path).unusable == 1
    texts = [json.dumps({"prompt": "a", "chosen": " ", "rejected": "c"}), *pairs]
    assert write_clean(_write(tmp_path / "e.jsonl", texts), Preference(), tmp_path).unusable == 2
    plain = [json.dumps({"prompt": "a", "completion": answer}) for answer in ("b", "")]
    assert write_clean(_write(tmp_path / "c.jsonl", plain), Chat(), tmp_path).unusable == 1


def test_files_of_one_name_have_a_copy_each_and_none_takes_a_files_place(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b", "out")]
    for folder in folders:
        folder.mkdir()
    first, second = (_write(folder / "train.jsonl", [_talk(folder.name, "x")]) for folder in folders[:2])
    other = _write(folders[0] / "train.json", [f"[{_talk('json', 'x')}]"])
    there = _write(folders[2] / "train.clean-2.jsonl", [_talk("there", "x")])
    made = write_clean_copies([first, second, other, there], Chat(), folders[2])
    asked = [_lines(one.copy)[0]["messages"][0]["content"] for one in made]
    assert asked == ["a", "b", "json", "there"]
    assert len({one.copy for one in made} | {str(there)}) == 5


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "a"}],
        [{"role": "assistant", "content": "b"}],
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "train": False}],
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}],
        [{"role": "bot", "content": "a"}, {"role": "assistant", "content": "b"}],
        [{"content": "a"}, {"role": "assistant", "content": "b"}],
        [{"role": "user", "content": 3}, {"role": "assistant", "content": "b"}],
        [{"role": "user"}, {"role": "assistant", "content": "b"}],
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "train": "no"}],
        [{"role": "user", "content": "\ud800"}, {"role": "assistant", "content": "b"}],
        [],
    ],
    ids=str,
)
def test_a_clean_copy_of_conversations_can_be_trained_on(
    messages: list[dict[str, Any]], codec: ChatCodec, tmp_path: Path
) -> None:
    talks = [_talk(f"question {n}", "an answer") for n in range(10)]
    path = _write(tmp_path / "t.jsonl", [*talks, json.dumps({"messages": messages})])
    cleaned = write_clean(path, Chat(), tmp_path)
    assert (cleaned.kept, cleaned.unusable) == (10, 1)
    with pytest.raises(DataError):
        dataset.load(Data(files=(path,)), Chat(), codec, 0)
    dataset.load(Data(files=(Path(cleaned.copy),)), Chat(), codec, 0)


def test_conversations_with_images_and_a_greeting_under_a_system_message_stay(tmp_path: Path) -> None:
    seen = [{"type": "image", "image": "a.png"}, {"type": "text", "text": "what is this"}]
    greeting = json.dumps({"messages": [{"role": "assistant", "content": "hello"}]})
    path = _write(tmp_path / "t.jsonl", [_talk(seen, "a cat"), greeting])
    assert write_clean(path, Chat(system="Be kind."), tmp_path / "a").kept == 2
    assert write_clean(path, Chat(), tmp_path / "b").kept == 1


def test_texts_with_labels_in_columns_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "tweets.csv"
    with path.open("w", newline="") as file:
        rows = [
            ("message", "mood", "by"),
            ("hi", "glad", "x"),
            ("", "sad", "x"),
            ("hi", "glad", "y"),
            ("hi", "sad", "x"),
            ("ho", "", "x"),
        ]
        csv.writer(file).writerows(rows)
    task = TextClassification(columns=TextColumns(text="message", label="mood"))
    cleaned = write_clean(path, task, tmp_path)
    assert _lines(cleaned.copy) == [
        {"message": "hi", "mood": "glad", "by": "x"},
        {"message": "hi", "mood": "sad", "by": "x"},
    ], "another label of the same text is for the user to judge"
    assert (cleaned.kept, cleaned.unusable, cleaned.copies) == (2, 2, 1), "an empty label cannot be learnt"
    assert read_splits(Data(files=(Path(cleaned.copy),) * 2), task, 0).files[0][1].problems.count == 0


@pytest.mark.parametrize(
    ("name", "head", "line", "end"),
    [
        ("m.csv", "date;message;mood;by", '1.2.;"said; ""so""";glad;x', "\r\n"),
        ("m.tsv", "message\tmood", "two words\tglad", "\n"),
        ("m.csv", "\ufeffmood,message", 'glad,"one, two"', "\r\n"),
    ],
)
def test_a_spreadsheet_stays_one(tmp_path: Path, name: str, head: str, line: str, end: str) -> None:
    """Its columns, their order, its delimiter and ends of lines; a copy and an empty row are gone."""
    delimiter = next(mark for mark in ";\t," if mark in head)
    empty = delimiter * head.count(delimiter)
    path = tmp_path / name
    path.write_bytes("".join(one + end for one in (head, line, empty, line)).encode())
    task = TextClassification(columns=TextColumns(text="message", label="mood"))
    cleaned = write_clean(path, task, tmp_path / "out")
    assert Path(cleaned.copy).name == name.replace(".", ".clean.")
    assert Path(cleaned.copy).read_bytes() == f"{head}{end}{line}{end}".encode()
    assert (cleaned.kept, cleaned.unusable, cleaned.copies) == (1, 1, 1)


def test_labels_that_the_recipe_does_not_name_are_left_out(tmp_path: Path) -> None:
    path = _write(tmp_path / "r.jsonl", [json.dumps({"text": one, "label": one}) for one in ("a", "b", "c")])
    cleaned = write_clean(path, TextClassification(labels=("a", "b")), tmp_path)
    assert (cleaned.kept, cleaned.unusable) == (2, 1)


def test_words_and_pairs_of_answers(tmp_path: Path) -> None:
    words = _write(
        tmp_path / "w.jsonl", ['{"tokens": ["a"], "tags": ["O"]}', '{"tokens": ["a"], "tags": []}']
    )
    assert write_clean(words, TokenClassification(), tmp_path).unusable == 1
    pair = json.dumps({"prompt": "a", "chosen": "b", "rejected": "c"})
    pairs = _write(
        tmp_path / "p.jsonl", [pair, pair, json.dumps({"prompt": "a", "chosen": "c", "rejected": "b"})]
    )
    cleaned = write_clean(pairs, Preference(), tmp_path)
    assert (cleaned.kept, cleaned.copies) == (2, 1)


@pytest.mark.parametrize(
    ("task", "text", "told"),
    [
        (Chat(), "", "the file is empty"),
        (Chat(), '{"other": 1}\n', "no known shape"),
        (Chat(), '{"messages": 3}\n', "has no row that can be used"),
        (TextClassification(), '{"text": "a"}\n', "label"),
        (ImageClassification(), "x", "a clean copy is for chat"),
    ],
)
def test_what_gives_no_copy_is_a_sentence_and_leaves_none(
    tmp_path: Path, task: TaskSpec, text: str, told: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    with pytest.raises(DataError) as raised:
        write_clean(path, task, tmp_path / "out")
    assert told in str(raised.value)
    assert not list((tmp_path / "out").glob("*"))


ROW = st.fixed_dictionaries(
    {
        "text": st.none() | st.integers() | st.text(max_size=4),
        "label": st.none() | st.sampled_from(("a", "b", "")),
    }
)


@given(st.lists(ROW, max_size=12))
def test_a_copy_is_clean_and_a_copy_of_it_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    path = _write(folder / "rows.jsonl", [json.dumps(row) for row in rows])
    try:
        cleaned = write_clean(path, TextClassification(), folder)
    except DataError:
        return
    kept = _lines(cleaned.copy)
    assert len(kept) == cleaned.kept == len({(row["text"], row["label"]) for row in kept})
    assert all(row in rows and isinstance(row["text"], str) and row["text"].strip() for row in kept)
    again = write_clean(Path(cleaned.copy), TextClassification(), folder)
    assert (again.kept, again.unusable, again.copies) == (cleaned.kept, 0, 0)
    assert Path(again.copy).read_bytes() == Path(cleaned.copy).read_bytes()


@given(
    st.lists(st.sampled_from(("café", "it’s", "smörgåsbord", "tea", "5 €", "Straße")), min_size=1, max_size=9)
)
def test_windows_1252_becomes_utf_8(tmp_path_factory: pytest.TempPathFactory, words: list[str]) -> None:
    folder = tmp_path_factory.mktemp("rows")
    path = folder / "rows.csv"
    path.write_bytes("".join(["text,label\n", *(f"{word},a\n" for word in words)]).encode("cp1252"))
    before = path.read_bytes()
    cleaned = write_clean(path, TextClassification(), folder)
    assert {row["text"] for row in _lines(cleaned.copy)} == set(words)
    assert (cleaned.file, cleaned.unusable) == (str(path), 0)
    assert cleaned.encoding == (
        "UTF-8" if words == [word for word in words if word.isascii()] else "Windows-1252"
    )
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("text", "encoding"), [("Привет", "koi8-r"), ("książka", "cp1250"), ("你好", "gb18030")]
)
def test_other_encodings_are_not_guessed_at(tmp_path: Path, text: str, encoding: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"text,label\nfine,a\n" + text.encode(encoding) + b",b\n")
    cleaned = write_clean(path, TextClassification(), tmp_path)
    assert (cleaned.kept, cleaned.unusable, cleaned.encoding) == (1, 1, "UTF-8")


def test_a_converted_file_is_called_by_its_own_name(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes("text\ncafé\n".encode("cp1252"))
    with pytest.raises(DataError) as raised:
        write_clean(path, TextClassification(), tmp_path)
    assert str(raised.value).startswith(f"{path}: has no column")


def test_a_labelled_row_of_weight_0_is_usable(tmp_path: Path) -> None:
    path = tmp_path / "weighted.csv"
    path.write_text("text,label,weight\na,yes,0\nb,no,1\nc,,1\na,yes,1\nd,yes,0\n")
    done = write_clean(path, TextClassification(), tmp_path)
    assert (done.kept, done.unusable, done.copies) == (4, 1, 0)
    assert Path(done.copy).read_text().splitlines() == [
        "text,label,weight",
        "a,yes,0",
        "b,no,1",
        "a,yes,1",
        "d,yes,0",
    ]


def test_a_row_of_weight_0_stands_for_no_other(tmp_path: Path) -> None:
    rows = [json.dumps({"prompt": "q", "completion": "a", "weight": weight}) for weight in (0, 1, 0, 2)]
    done = write_clean(_write(tmp_path / "weighted.jsonl", rows), Chat(), tmp_path)
    assert (done.kept, done.unusable, done.copies) == (2, 0, 2)
    assert [line["weight"] for line in _lines(done.copy)] == [0, 1]
