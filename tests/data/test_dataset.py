"""Recipe data into tokenised splits."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from ptune.codecs.chat import ChatCodec, Example
from ptune.config.chat import Chat
from ptune.config.recipe import Data
from ptune.data.examples import dataset
from ptune.data.examples.overlong import fit
from ptune.errors import DataError

from .conftest import load, row, text, write

SAMPLE = Path("sample:devils_dictionary.train")


def test_every_row_becomes_an_example_of_one_split(codec, capsys):
    data = load(codec, SAMPLE, test=(Path("sample:devils_dictionary.test"),), task=Chat(max_length=4096))
    assert (len(data.train), len(data.validation), len(data.test)) == (672, 75, 84)
    assert (len(data.validation_conversations), len(data.test_conversations)) == (75, 84)
    train = {example.ids for example in data.train}
    assert not any(example.ids in train for example in data.validation)
    pairs = zip(data.validation, data.validation_conversations, strict=True)
    assert all(codec.encode_example(conversation.messages) == example for example, conversation in pairs)
    assert "sample:devils_dictionary.train: OpenAI messages, 747 rows" in capsys.readouterr().err


def test_a_conversation_gives_its_prompt(codec):
    data = load(codec, SAMPLE, limit=3, task=Chat(max_length=4096))
    for example, conversation in zip(data.validation, data.validation_conversations, strict=True):
        prompt = conversation.prompt(codec)
        assert list(example.ids[: len(prompt)]) == prompt
        assert example.targets.index(True) == len(prompt)


def test_the_split_depends_on_seed_and_content_only(codec, tmp_path):
    rows = [row(f"question {number}") for number in range(50)]
    one = load(codec, write(tmp_path / "a.jsonl", rows))
    again = load(codec, write(tmp_path / "b.jsonl", rows[::-1]))
    other = load(codec, write(tmp_path / "a.jsonl", rows), seed=1)
    assert {example.ids for example in one.validation} == {example.ids for example in again.validation}
    assert {example.ids for example in one.validation} != {example.ids for example in other.validation}
    assert [example.ids for example in one.train] == [example.ids for example in reversed(again.train)]
    assert len(one.validation) == 5


def test_what_is_held_out_is_what_it_was(codec):
    """Earlier runs go on with the same split, and published figures stay comparable: recorded from the first version."""
    held = load(codec, SAMPLE, task=Chat(max_length=4096)).validation_conversations
    assert [conversation.question for conversation in held[:4]] == [
        "Define: Humorist",
        "Define: Plague",
        "Define: Apostate",
        "Define: Rank",
    ]


def test_given_validation_files_hold_nothing_out(codec, tmp_path):
    train, held = write(tmp_path / "a.jsonl", [row("a")]), write(tmp_path / "b.jsonl", [row("b"), row("c")])
    data = load(codec, train, validation=(held,))
    assert (len(data.train), len(data.validation)) == (1, 2)


def test_limit_keeps_the_first_training_rows(codec, tmp_path):
    path = write(tmp_path / "a.jsonl", [row(f"question {number}") for number in range(20)])
    whole, some = load(codec, path), load(codec, path, limit=4)
    assert list(some.train) == list(whole.train[:4])
    assert list(some.validation) == list(whole.validation)


def test_the_summary_is_json_and_repeatable(codec, tmp_path):
    path = write(tmp_path / "a.jsonl", [row(f"question {number}") for number in range(20)])
    first, second = load(codec, path).summary, load(codec, path).summary
    assert json.loads(json.dumps(first)) == second
    assert first["files"] == [
        {
            "split": "train",
            "path": str(path),
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "format": "JSONL",
            "shape": "OpenAI messages",
            "rows": 20,
            "unread_columns": [],
            "examples": 18,
            "tokens": sum(len(example) for example in load(codec, path).train),
        }
    ]
    assert (first["train"]["examples"], first["validation"]["examples"]) == (18, 2)
    brief = ChatCodec(
        codec.tokenizer, codec.template.source, codec.special_tokens, (), None, system="Be brief."
    )
    assert load(brief, path).summary["train"]["sha256"] != first["train"]["sha256"]


def test_plain_prompts_and_completions_use_no_template(codec, tmp_path):
    path = write(tmp_path / "a.jsonl", [{"prompt": f"{n} is", "completion": " a number"} for n in range(4)])
    data = load(codec, path)
    completion = data.validation_conversations[0]
    assert data.validation[0] == codec.encode_completion(completion.question, " a number")
    assert completion.prompt(codec) == codec.encode_text(completion.question)


# Too long


def test_overlong_examples_are_an_error_with_counts(codec, tmp_path):
    path = write(tmp_path / "a.jsonl", [row("a"), row("b", "long " * 40), row("c", "longer " * 50), row("d")])
    longest = len(codec.encode_example(row("c", "longer " * 50)["messages"]))
    with pytest.raises(DataError) as error:
        load(codec, path, task=Chat(max_length=32))
    assert str(error.value).startswith(
        f"2 of 4 examples are longer than 32 tokens (longest {longest}, {path}, line 3); use --task.on-overlong truncate"
    )


def test_the_models_context_is_a_limit_too(codec, tmp_path):
    path = write(tmp_path / "a.jsonl", [row("a"), row("b", "long " * 40)])
    small = ChatCodec(codec.tokenizer, codec.template.source, codec.special_tokens, (), 32)
    with pytest.raises(DataError, match="1 of 2 examples are longer than 32 tokens"):
        load(small, path)


@pytest.mark.parametrize(
    ("policy", "examples", "left_out"), [("drop", 4, 2), ("truncate", 5, 1), ("split", 9, 0)]
)
def test_overlong_examples_are_cut_as_told(codec, tmp_path, policy, examples, left_out):
    rows = [row("a"), row("b"), row("c"), row("d"), row("long " * 40), row("e", "long " * 40)]
    train = write(tmp_path / "train.jsonl", rows)
    validation = write(tmp_path / "validation.jsonl", [row("x")])
    task = Chat(max_length=32, on_overlong=policy)
    data = load(codec, train, validation=(validation,), task=task)
    assert all(len(example) <= 32 and any(example.targets) for example in data.train)
    summary = data.summary["train"]
    assert (summary["overlong"], summary["left_out"]) == (2, left_out)
    assert summary["examples"] == len(data.train)
    assert len(data.train_conversations) == 4


def test_nothing_left_is_an_error(codec, tmp_path):
    path = write(tmp_path / "a.jsonl", [row("a", "long " * 40)] * 4)
    with pytest.raises(DataError, match=r"no train example is left: all are longer than 32 tokens \(drop\)"):
        load(codec, path, task=Chat(max_length=32, on_overlong="drop"))


@settings(max_examples=200)
@given(targets=st.lists(st.booleans(), min_size=2, max_size=60), limit=st.integers(2, 20))
def test_split_keeps_every_target_once_behind_its_context(targets, limit):
    example = Example(tuple(range(len(targets))), (False, *targets[1:]))
    pieces = fit(example, limit, "split")
    assert all(len(piece) <= limit and any(piece.targets) for piece in pieces) or len(example) <= limit
    learned = [
        token for piece in pieces for token, target in zip(piece.ids, piece.targets, strict=True) if target
    ]
    assert learned == [index for index, target in enumerate(example.targets) if target]
    for piece in pieces:
        assert not piece.targets[0]
        assert piece.ids == tuple(range(piece.ids[0], piece.ids[0] + len(piece)))


# What cannot be used


def test_no_files_says_what_to_pass(codec):
    with pytest.raises(DataError, match=r"pass --data\.files PATH.*sample:devils_dictionary\.train"):
        load(codec)


def test_one_row_is_too_few_to_hold_out(codec, tmp_path):
    with pytest.raises(DataError, match="1 row is too few"):
        load(codec, write(tmp_path / "a.jsonl", [row("a")]))


def test_all_that_is_wrong_with_a_file_comes_in_one_error(codec, tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [
        json.dumps(row("a")),
        "{",
        json.dumps({"messages": [{"role": "bot", "content": "x"}]}),
        json.dumps({"text": "x"}),
        json.dumps({"messages": [{"role": "user", "content": "x"}]}),
        json.dumps(row("b")),
        json.dumps({"messages": [{"role": "user", "content": 3}, {"role": "assistant", "content": "x"}]}),
    ]
    path.write_text("\n".join(rows), encoding="utf-8")
    with pytest.raises(DataError) as error:
        load(codec, path)
    assert str(error.value).splitlines() == [
        f"{path}: 5 of 7 lines cannot be used",
        "  line 2: not JSON: Expecting property name enclosed in double quotes at column 2",
        "  line 3: messages[0].role is 'bot'; it must be one of system, developer, user, assistant, tool",
        "  line 4: has no messages, but text (raw text): all rows of a file have one shape, so put these into a file of"
        " their own; data.files takes several",
        "  line 5: nothing to train on: no assistant message that answers something and may be trained on",
        "  line 7: messages[0].content must be text, not a number",
    ]


def test_one_wrong_line_is_told_as_file_and_line(codec, tmp_path):
    path = write(tmp_path / "a.jsonl", [row("a"), row("b"), {"messages": [{"role": "user"}]}])
    with pytest.raises(DataError) as error:
        load(codec, path)
    assert str(error.value).startswith(f"{path}:3: messages[0].content is missing")
    assert (error.value.file, error.value.line) == (str(path), 3)


def test_a_template_that_cannot_be_masked_is_told_once(codec, tmp_path):
    counting = codec.with_template(
        "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    with pytest.raises(
        DataError, match=r"4 of 4 lines(?s:.)*answer 1 of 1 cannot be located.*and 3 more like it"
    ):
        load(counting, write(tmp_path / "a.jsonl", [row("same")] * 4))


# Several files


def test_each_file_is_counted(codec, tmp_path):
    first, second = (
        write(tmp_path / "a.jsonl", [row(f"question {number}") for number in range(20)]),
        write(tmp_path / "b.jsonl", [text(number, 100) for number in range(10)]),
    )
    data = load(codec, first, second, task=Chat(max_length=64), test=(first,))
    files = data.summary["files"]
    assert [(file["split"], file["path"]) for file in files] == [
        ("train", str(first)),
        ("train", str(second)),
        ("test", str(first)),
    ]
    assert data.parts == (files[0]["examples"], files[1]["examples"])
    assert sum(data.parts) == len(data.train) == data.summary["train"]["examples"]
    assert sum(file["tokens"] for file in files[:2]) == data.summary["train"]["tokens"]
    own = data.train[: data.parts[0]]
    assert files[0]["tokens"] == own.lengths.sum() == sum(map(len, own))
    assert all("question" in codec.decode(example.ids) for example in own)
    assert not any("question" in codec.decode(example.ids) for example in data.train[data.parts[0] :])


def test_a_file_with_a_weight_needs_examples(codec, tmp_path):
    first, second = (
        write(tmp_path / name, [row(f"{name} {number}") for number in range(10)])
        for name in ("a.jsonl", "b.jsonl")
    )
    assert load(codec, first, second, weights=(1, 3)).parts != (0, 0)
    assert load(codec, first, second, weights=(1, 0), limit=3).parts == (3, 0)
    with pytest.raises(DataError, match=r"b\.jsonl: has a weight, but no training example is left of it"):
        load(codec, first, second, weights=(1, 3), limit=3)


@pytest.mark.parametrize("format", ["csv", "tsv", "parquet"])
def test_alpaca_comes_in_every_format(codec, tmp_path, format):  # noqa: A002
    rows = [{"instruction": f"say {n}, please", "input": "", "output": f"{n}\n"} for n in range(10)]
    path = tmp_path / f"a.{format}"
    if format == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, rows[0], delimiter="\t" if format == "tsv" else ",")
            table.writeheader()
            table.writerows(rows)
    expected = load(codec, write(tmp_path / "a.jsonl", rows))
    assert [list(load(codec, path).train), list(load(codec, path).validation)] == [
        list(expected.train),
        list(expected.validation),
    ]


def test_a_csv_file_without_a_header_is_told(codec, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("say this,this\nsay that,that\n", encoding="utf-8")
    with pytest.raises(
        DataError,
        match=r"a\.csv: no known shape: its columns are say this, this; .*the first line must name the columns",
    ):
        load(codec, path)


# What an examiner sees


class Recorder:
    def __init__(self):
        self.seen = []

    def file(self, split, path):
        self.seen.append((split, path.name))

    def sample(self, split, sample, example):
        self.seen.append((split, sample.number, len(example)))


def test_an_examiner_sees_every_row_in_order_before_it_is_cut(codec, tmp_path):
    rows = [row(f"question {number}", "long " * 50 * (number == 3)) for number in range(10)]
    path, other = write(tmp_path / "a.jsonl", rows), write(tmp_path / "b.jsonl", [row("x", "")])
    recorder, task = Recorder(), Chat(max_length=32, on_overlong="drop")
    data = dataset.load(Data(files=(path,), test=(other,)), task, codec, 0, recorder)
    assert recorder.seen[0] == ("train", "a.jsonl")
    assert [seen[1] for seen in recorder.seen[1:11]] == list(range(1, 11))
    assert [seen[2] for seen in recorder.seen[1:11]] == [
        len(codec.encode_example(row["messages"])) for row in rows
    ]
    (held,) = (seen[1] for seen in recorder.seen[1:11] if seen[0] == "validation")
    assert data.validation[0] == codec.encode_example(rows[held - 1]["messages"])
    assert recorder.seen[11:] == [("test", "b.jsonl"), ("test", 1, len(data.test[0]))]


# What has no target


def test_every_example_has_a_target_that_can_be_predicted(codec, tmp_path, capsys):
    rows = [
        {"prompt": "", "completion": ""},
        *({"prompt": f"{n} is", "completion": " one"} for n in range(9)),
    ]
    path = write(tmp_path / "a.jsonl", rows)
    data = load(codec, path, validation=(path,))
    assert (len(data.train), data.summary["train"]["left_out"], len(data.train_conversations)) == (9, 1, 9)
    assert all(any(example.targets[1:]) for example in data.train)
    assert "train: 1 of 10 rows are left out: no target of theirs is left" in capsys.readouterr().err
    with pytest.raises(DataError, match="no train example is left: none has a target"):
        load(codec, write(tmp_path / "b.jsonl", rows[:1]), validation=(path,))


def test_of_a_file_of_many_rows_unreadable_ones_are_told_before_any_is_encoded(codec, tmp_path, monkeypatch):
    monkeypatch.setattr("ptune.data.source._MANY_ROWS", 10)
    monkeypatch.setattr(ChatCodec, "encode_examples", lambda *_, **__: pytest.fail("encoded"))
    path = write(tmp_path / "a.jsonl", [*(row(f"{n}") for n in range(20)), {"messages": None}])
    with pytest.raises(DataError, match=r"a\.jsonl:21: has no messages"):
        load(codec, path)
    with pytest.raises(DataError, match=r"a\.jsonl:21: has no messages"):
        load(codec, path, validation=(path,))
