"""A reward's function: what it is given, and errors in one sentence where it fails."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ptune.rewards import Reward, RewardError, rewards_of

HERE = Path(__file__)
PROMPTS = [[{"role": "user", "content": "2+2"}], [{"role": "user", "content": "3+3"}]]
ANSWERS = [[{"role": "assistant", "content": "4"}], [{"role": "assistant", "content": "5"}]]
COLUMNS: dict[str, list[Any]] = {"answer": ["4", "6"], "level": [1, 2]}


def of(function: Callable[..., Any]) -> list[float | None]:
    return Reward("mine", 1.0, function)(PROMPTS, ANSWERS, COLUMNS)


def test_it_is_called_as_trl_calls_it() -> None:
    """By keywords; functions of TRL's documentation take what they need and the rest as `kwargs`."""
    seen: dict[str, Any] = {}

    def everything(prompts: Any, completions: Any, **kwargs: Any) -> list[float]:
        seen.update(kwargs, prompts=prompts, completions=completions)
        return [1.0, 0.0]

    def correct(completions: Any, answer: list[str], **kwargs: Any) -> list[float]:
        contents = [completion[0]["content"] for completion in completions]
        return [1.0 if content == right else 0.0 for content, right in zip(contents, answer, strict=True)]

    assert of(everything) == [1.0, 0.0]
    assert seen == {**COLUMNS, "prompts": PROMPTS, "completions": ANSWERS}
    assert of(correct) == [1.0, 0.0]


def test_a_function_may_take_less() -> None:
    assert of(lambda completions: [0.5] * len(completions)) == [0.5, 0.5]
    assert of(lambda level, unknown=3: [one * unknown for one in level]) == [3, 6]
    assert of(functools.partial(lambda answer, level: [1, 2], level=None)) == [1, 2]


def test_objects_are_called_too() -> None:
    class Judge:
        def __call__(self, completions: Any) -> list[float]:
            return [2.0, 3.0]

    assert of(Judge()) == [2.0, 3.0]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([1, None], [1.0, None]),
        ((True, False), [1.0, 0.0]),
        (np.array([0.25, 0.5], np.float32), [0.25, 0.5]),
        ([np.float64(1.5), np.int64(2)], [1.5, 2.0]),
        (torch.tensor([0.25, 0.5]), [0.25, 0.5]),
    ],
)
def test_numbers_of_any_kind(found: Any, expected: list[float | None]) -> None:
    values = of(lambda **_: found)
    assert values == expected
    assert {type(value) for value in values} <= {float, type(None)}


def wrong() -> Any:  # a line that the test knows
    raise ZeroDivisionError("by nothing")


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda **_: [1.0], "returned 1 numbers for 2 answers"),
        (lambda **_: 1.0, r"returned 1\.0, and has to return a list of 2 numbers"),
        (lambda **_: None, "returned None, and has to"),
        (lambda **_: "ab", "returned 'ab', and has to"),
        (lambda **_: {0: 1.0, 1: 2.0}, "returned {0: 1.0, 1: 2.0}, and has to"),
        (lambda **_: [1.0, float("nan")], "returned nan for answer 2 of 2, and has to return a finite number or None"),
        (lambda **_: [float("inf"), 1.0], "returned inf for answer 1 of 2"),
        (lambda **_: [1.0, "1"], "returned '1' for answer 2 of 2"),
        (lambda **_: [[1.0, 2.0], 1.0], r"returned \[1.0, 2.0\] for answer 1 of 2"),
        (lambda **_: [1.0, "x" * 500], r"returned 'x{59}… for answer 2 of 2"),
        (lambda **_: [10**400, 1.0], "returned 10{59}… for answer 1 of 2"),
    ],
)  # fmt: skip
def test_what_is_no_number_for_each_answer(function: Callable[..., Any], words: str) -> None:
    line = function.__code__.co_firstlineno
    with pytest.raises(RewardError, match=rf"^reward 'mine' \({re.escape(str(HERE))}:{line}\) {words}"):
        of(function)


def test_what_a_function_raises_is_told_with_its_line() -> None:
    def fails(completions: Any, **_: Any) -> Any:
        return wrong()

    line, inner = fails.__code__.co_firstlineno, wrong.__code__.co_firstlineno + 1
    message = f"reward 'mine' ({HERE}:{line}) raised ZeroDivisionError in line {inner}: by nothing"
    with pytest.raises(RewardError, match=f"^{re.escape(message)}$"):
        of(fails)


def test_a_column_that_is_not_there() -> None:
    def needs(completions: Any, solution: Any, **_: Any) -> Any: ...

    with pytest.raises(RewardError, match=r"needs the column 'solution', and the rows have answer, level$"):
        of(needs)
    with pytest.raises(RewardError, match=r"and the rows have none beside the prompt$"):
        Reward("mine", 1.0, needs)(PROMPTS, ANSWERS, {})


@pytest.mark.parametrize("name", ["exact:solution", "number:solution", "code:solution"])
def test_a_missing_column_is_known_before_there_is_an_answer(name: str) -> None:
    (reward,) = rewards_of([name])
    reward.check_columns(["answer", "solution"])
    with pytest.raises(RewardError, match=r"needs the column 'solution', and the rows have answer$"):
        reward.check_columns(["answer"])


def test_what_needs_no_column_is_content_with_none() -> None:
    for reward in (
        *rewards_of(["length:3", "regex:a"]),
        Reward("mine", 1.0, lambda completions, level=1: []),
    ):
        reward.check_columns([])
