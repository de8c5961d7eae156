"""What repeats and overlaps, against a slow way to count it; labels; lengths."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.findings import place_of
from support.tiny_tokenizers import tokenizer

from ptune.codecs.chat import ChatCodec, Example
from ptune.config.chat import Chat
from ptune.data.problems import Problems
from ptune.data.shapes.conversations import Completion, Conversation, Document
from ptune.data.source import Sample
from ptune.doctor.doctor import Doctor

_TINY = tokenizer()
CODEC = ChatCodec(_TINY.backend_tokenizer, _TINY.chat_template, _TINY.special_tokens_map, (), None)
FILE = Problems("file")
pairs = st.lists(st.tuples(st.integers(5, 7), st.integers(5, 7)), max_size=12)


def doctor(splits: dict[str, list[tuple[int, int]]], **task: Any) -> Doctor:
    """Examples of two tokens of prompt and two of answer, known by one token each."""
    made = Doctor(Chat(**task), CODEC)
    for split, examples in splits.items():
        for number, (prompt, answer) in enumerate(examples, start=1):
            example = Example((300, prompt, answer, 4), (False, False, True, True))
            made.sample(split, Sample(Completion(str(prompt), f"answer {answer}"), number, FILE), example)
    return made


def counts(made: Doctor) -> dict[str, int]:
    return {finding.rule: finding.count for finding in made.findings() if finding.rule != "unknown-labels"}


@given(train=pairs, validation=pairs)
def test_repeats_and_overlaps_are_counted_as_one_would_by_hand(train, validation):
    first_answers: dict[int, int] = {}
    for prompt, answer in train:
        first_answers.setdefault(prompt, answer)
    expected = {
        "duplicates": len(train) - len(set(train)),
        "conflicting-answers": sum(answer != first_answers[prompt] for prompt, answer in train),
        "validation-overlap": sum(example in train for example in validation),
    }
    found: Counter[str] = Counter()
    for finding in doctor({"train": train, "validation": validation}).findings():
        if not (finding.rule == "duplicates" and "validation" in finding.message):
            found[finding.rule] += finding.count
    assert {rule: found[rule] for rule in expected} == expected


def test_the_first_of_its_kind_is_named_with_its_twin():
    findings = doctor({"train": [(5, 5), (6, 6), (6, 6), (5, 5), (5, 7)]}).findings()
    told = {finding.rule: (place_of(finding).number, finding.message) for finding in findings}
    assert told["duplicates"][0] == 3
    assert "a copy of file:2 (2 copies among 5 train examples)" in told["duplicates"][1]
    assert told["conflicting-answers"][0] == 5
    assert "the question of file:1 with another answer" in told["conflicting-answers"][1]


@pytest.mark.parametrize(
    ("shared", "split", "severity"),
    [
        (1, "test", "warning"),
        (3, "test", "error"),
        (60, "validation", "warning"),
        (150, "validation", "error"),
    ],
)
def test_how_bad_an_overlap_is_depends_on_its_share(shared, split, severity):
    held = [(n, 5) for n in range(1000, 1200)]
    [finding] = [
        finding
        for finding in doctor({"train": held[:shared], split: held}).findings()
        if finding.rule == f"{split}-overlap"
    ]
    assert (finding.severity, finding.count) == (severity, shared)


def test_a_test_set_that_validates_too_is_an_overlap():
    made = doctor({"train": [(5, 5)], "validation": [(6, 6)], "test": [(6, 6)]})
    assert "which is of validation (1 of 1 test examples" in made.findings()[0].message


@pytest.mark.parametrize(
    ("answers", "labels"),
    [(["yes", "no"] * 12, ["yes", "no"]), (["yes", "no"] * 5, []), ([str(n // 2) for n in range(80)], [])],
)
def test_answers_are_labels_only_where_many_rows_share_few(answers, labels):
    made = Doctor(Chat(), CODEC)
    for number, answer in enumerate(answers, start=1):
        conversation = Conversation(
            ({"role": "user", "content": f"question {number}"}, {"role": "assistant", "content": answer})
        )
        made.sample("train", Sample(conversation, number, FILE), conversation.example(CODEC, "assistant"))
    assert list(made.sets.labels) == labels


@pytest.mark.parametrize("policy", ["error", "truncate", "drop", "split"])
def test_what_is_too_long_is_counted_before_it_is_cut(policy):
    made = Doctor(Chat(max_length=8, on_overlong=policy), CODEC)
    late = Example(tuple(range(5, 25)), (*[False] * 9, *[True] * 11))
    early = Example(tuple(range(5, 25)), (*[False] * 6, *[True] * 14))
    for number, example in enumerate((early, late), start=1):
        made.sample("train", Sample(Completion("q", "a"), number, FILE), example)
    [finding] = [finding for finding in made.findings() if finding.rule == "over-long"]
    assert finding.severity == ("error" if policy == "error" else "warning")
    assert (finding.count, place_of(finding).number) == (2, 1)
    if policy == "truncate":  # 23 of 25 targets are beyond the eighth token
        assert "cuts off 92.0% of all targets" in finding.message
        assert "nothing is left of 1" in finding.message


def test_raw_text_is_meant_to_be_cut_and_asks_nothing():
    made = Doctor(Chat(max_length=8), CODEC)
    for number in (1, 2):
        document = Document("It was a dark and stormy night. " * number)
        made.sample("train", Sample(document, number, FILE), document.example(CODEC, "assistant"))
    assert made.findings() == []


def test_what_is_remembered_of_an_example_is_small():
    made = doctor({"train": [(n, n) for n in range(3000)]})
    ledger = made.splits["train"]
    held = sum(part.itemsize * len(part) for part in vars(ledger).values() if hasattr(part, "itemsize"))
    assert held == 28 * 3000
    assert len(ledger.lengths) == 1
    assert ledger.labels is None


def test_paths_are_named_as_the_user_named_them():
    made = Doctor(Chat(), CODEC)
    made.file("train", Path("sample:devils_dictionary.train"))
    made.file("train", Path("nowhere.jsonl"))
    made.file("test", Path("hub:someone/something"))
    assert made.findings() == []
    assert made.files["train"] == ["sample:devils_dictionary.train", "nowhere.jsonl"]
