"""What is wrong with judged answers, and what is right of them and would be wrong of conversations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.findings import place_of
from support.tiny_tokenizers import tokenizer

from ptune.codecs.chat import ChatCodec
from ptune.config.recipe import Data
from ptune.config.unpaired_preference import UnpairedPreference
from ptune.doctor.examination import examine
from ptune.doctor.finding import Finding

_TINY = tokenizer()
CODEC = ChatCodec(_TINY.backend_tokenizer, _TINY.chat_template, _TINY.special_tokens_map, (), None)


def judged(number: int, answer: str, label: bool) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": f"Question {number}?"}],
        "completion": answer,
        "label": label,
    }


def findings(folder: Path, rows: list[Any], held: list[Any] | None = None, **task: Any) -> dict[str, Finding]:
    for name, part in (("train", rows), ("validation", even(104)[100:]), ("test", held or [])):
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in part))
    data = Data(
        files=(folder / "train.jsonl",),
        test=(folder / "test.jsonl",) if held else (),
        validation=(folder / "validation.jsonl",),
    )
    examined = examine(data, UnpairedPreference(**{"max_length": 400, **task}), CODEC, 0)
    return {finding.rule: finding for finding in examined.findings}


def even(count: int) -> list[dict[str, Any]]:
    """Answers as often long as short, and as often desirable as not."""
    words = ("Yes, of course.", "No.")
    return [judged(number, words[number % 2], number % 4 < 2) for number in range(count)]


def test_answers_that_are_in_order_have_no_finding(tmp_path: Path) -> None:
    several = [judged(3, "Maybe, or maybe not.", True), judged(3, "", False), judged(3, "Not at all.", False)]
    assert findings(tmp_path, [*even(60), *several]) == {}  # a bad answer may be an empty one


@pytest.mark.parametrize(("label", "word"), [(True, "undesirable"), (False, "desirable")])
def test_one_verdict_alone_is_an_error(label: bool, word: str, tmp_path: Path) -> None:
    found = findings(tmp_path, [judged(number, f"Answer {number}.", label) for number in range(20)])
    assert set(found) == {"one-verdict"}
    assert found["one-verdict"].severity == "error"
    assert f"add {word} ones" in found["one-verdict"].message


def test_the_weight_that_evens_verdicts_out_is_proposed(tmp_path: Path) -> None:
    rows = [judged(number, f"Answer {number}.", number % 5 == 0) for number in range(60)]
    told = findings(tmp_path, rows)["one-verdict-outweighs"].message
    assert "12 desirable training answers and 48 others" in told
    assert "try --task.desirable-weight 4" in told
    assert "one-verdict-outweighs" not in findings(tmp_path, rows, desirable_weight=4.0)
    turned = findings(tmp_path, rows, desirable_weight=12.0)["one-verdict-outweighs"].message
    assert "--task.undesirable-weight 3" in turned


def test_an_answer_with_both_verdicts_is_told_and_is_no_copy(tmp_path: Path) -> None:
    found = findings(tmp_path, [*even(20), judged(2, "Yes, of course.", True)])
    assert set(found) == {"contradicting-verdicts"}
    assert place_of(found["contradicting-verdicts"]).number == 21
    assert "train.jsonl:3" in found["contradicting-verdicts"].message
    assert set(findings(tmp_path, [*even(20), judged(2, "Yes, of course.", False)])) == {"duplicates"}


@pytest.mark.parametrize(("share", "word"), [(0.9, "longer"), (0.1, "shorter"), (0.7, None)])
def test_a_length_that_nearly_always_wins_is_told(share: float, word: str | None, tmp_path: Path) -> None:
    long, short = "This is quite a long answer.", "Short."
    rows = []
    for number in range(100):
        usual = number < share * 100
        rows += [
            judged(1000 + 2 * number, long if usual else short, True),
            judged(1001 + 2 * number, short if usual else long, False),
        ]
    found = findings(tmp_path, rows)
    assert set(found) == ({"one-length-wins"} if word else set())
    if word:
        assert f"the {word} one in 90%" in found["one-length-wins"].message


def test_pairs_are_examined_as_two_answers(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {
            "prompt": [{"role": "user", "content": f"Question {number}?"}],
            "chosen": ("Yes, of course.", "No.")[number % 2],
            "rejected": ("No.", "Yes, of course.")[number % 2],
        }
        for number in range(20)
    ]
    same = {"prompt": [{"role": "user", "content": "What?"}], "chosen": "Yes.", "rejected": "Yes."}
    held = {**rows[0], "prompt": [{"role": "user", "content": "New?"}]}
    for name, part in (("train", [*rows, same]), ("validation", [held])):
        (tmp_path / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in part))
    data = Data(files=(tmp_path / "train.jsonl",), validation=(tmp_path / "validation.jsonl",))
    examined = examine(data, UnpairedPreference(max_length=400), CODEC, 0)
    found = {finding.rule: finding for finding in examined.findings}
    assert {"equal-answers", "contradicting-verdicts"} <= set(found)
    assert place_of(found["equal-answers"]).number == 21
    verdicts = examined.doctor.splits["train"].verdicts
    assert (verdicts.desirable, verdicts.undesirable) == (21, 21)


def test_leaks_and_long_answers_are_found(tmp_path: Path) -> None:
    found = findings(
        tmp_path,
        [*even(20), judged(20, "so " * 900, True)],
        held=[judged(6, "Another.", True), judged(99, "New.", False)],
        max_length=200,
    )
    assert place_of(found["test-overlap"]).number == 1  # the question is known, whatever the answers
    assert "--task.on-overlong drop" in found["over-long"].message
    assert "truncate" not in found["over-long"].message
