"""What is wrong with pairs of answers, by row; what is right of them and would be wrong of conversations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.findings import place_of
from support.tiny_tokenizers import tokenizer

from ptune.codecs.chat import ChatCodec
from ptune.config.preference import Preference
from ptune.config.recipe import Data
from ptune.doctor.examination import examine
from ptune.doctor.finding import Finding

_TINY = tokenizer()
CODEC = ChatCodec(_TINY.backend_tokenizer, _TINY.chat_template, _TINY.special_tokens_map, (), None)


def pair(number: int, chosen: str, rejected: str) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": f"Question {number}?"}],
        "chosen": chosen,
        "rejected": rejected,
    }


def findings(folder: Path, rows: list[Any], held: list[Any] | None = None, **task: Any) -> dict[str, Finding]:
    for name, part in (("train", rows), ("validation", even(102)[100:]), ("test", held or [])):
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in part))
    data = Data(
        files=(folder / "train.jsonl",),
        test=(folder / "test.jsonl",) if held else (),
        validation=(folder / "validation.jsonl",),
    )
    examined = examine(data, Preference(**{"max_length": 400, **task}), CODEC, 0)
    return {finding.rule: finding for finding in examined.findings}


def even(count: int) -> list[dict[str, Any]]:
    """Pairs whose better answer is as often the longer one as not."""
    words = ("Yes, of course.", "No.")
    return [pair(number, words[number % 2], words[1 - number % 2]) for number in range(count)]


def test_pairs_that_are_in_order_have_no_finding(tmp_path: Path) -> None:
    several = [pair(3, "Maybe, or maybe not.", "Never."), pair(3, "Quite.", "Not at all, I am afraid.")]
    assert findings(tmp_path, [*even(60), *several]) == {}  # a question may have several pairs


def test_equal_answers_are_an_error(tmp_path: Path) -> None:
    found = findings(tmp_path, [*even(20), pair(20, "Yes.", "Yes.")])
    assert found["equal-answers"].severity == "error"
    assert place_of(found["equal-answers"]).number == 21


@pytest.mark.parametrize("prompt", ["Question 20?", [{"role": "user", "content": "Question 20?"}]])
def test_a_better_answer_without_text_is_an_error_and_a_worse_one_is_not(tmp_path: Path, prompt: Any) -> None:
    empty = [{**pair(20, " ", "No."), "prompt": prompt}, {**pair(21, "Yes.", " "), "prompt": prompt}]
    found = findings(tmp_path, [*even(20), *empty])
    assert found["empty-answer"].severity == "error"
    assert place_of(found["empty-answer"]).number == 21
    assert found["empty-answer"].count == 1


def test_a_pair_that_says_the_opposite_of_an_earlier_one_is_told(tmp_path: Path) -> None:
    rows = [*even(20), pair(3, "Yes.", "No."), pair(4, "No.", "Yes."), pair(3, "No.", "Yes.")]
    found = findings(tmp_path, rows)
    assert set(found) == {"contradicting-pairs"}
    finding = found["contradicting-pairs"]
    assert (finding.severity, finding.count, place_of(finding).number) == ("warning", 1, 23)
    assert f"{tmp_path / 'train.jsonl'}:21 with the other one as the better" in finding.message


@pytest.mark.parametrize(("share", "word"), [(0.85, "longer"), (0.15, "shorter"), (0.7, None)])
def test_a_length_that_nearly_always_wins_is_told(share: float, word: str | None, tmp_path: Path) -> None:
    long, short = "This is quite a long answer.", "Short."
    rows = [
        pair(number, long, short) if number < share * 100 else pair(number, short, long)
        for number in range(100)
    ]
    found = findings(tmp_path, rows)
    assert set(found) == ({"one-length-wins"} if word else set())
    if word:
        assert f"the {word} one in 85%" in found["one-length-wins"].message


def test_copies_leaks_and_broken_texts_are_found_on_both_sides(tmp_path: Path) -> None:
    rows = even(30)
    rows += [rows[4], pair(40, "Good.", "Bad\0."), pair(41, "Good.", "<|im_start|>assistant")]
    found = findings(tmp_path, rows, held=[pair(6, "Another.", "One."), pair(99, "New.", "Old.")])
    assert set(found) == {"duplicates", "nul-character", "control-tokens", "test-overlap"}
    assert place_of(found["duplicates"]).number == 31
    assert place_of(found["nul-character"]).number == 32
    assert "rejected: messages[1].content" in found["nul-character"].message
    assert place_of(found["control-tokens"]).number == 33
    assert place_of(found["test-overlap"]).number == 1  # the question is known, whatever the answers


def test_a_side_that_is_too_long_is_refused_with_what_helps(tmp_path: Path) -> None:
    found = findings(tmp_path, [*even(20), pair(20, "Good.", "so " * 900)], max_length=200)
    assert any("--task.on-overlong drop" in finding.message for finding in found.values())
    assert not any("truncate" in finding.message for finding in found.values())
