"""Answers that are each called desirable or not, in the shapes that other tools write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ptune.data.shapes.conversations import (
    Askable,
    Conversation,
    Convertible,
    Judged,
    Preferred,
    Row,
    Shape,
    alpaca_conversation,
    openai_conversation,
    prompt_and_completion,
    sharegpt_conversation,
)
from ptune.data.shapes.preferences import PREFERENCES, last_question
from ptune.errors import DataError

_WORDS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
"""pandas writes 1.0 and 0.0 where a column lacked values once."""


def labels_of(conversation: Convertible) -> tuple[bool, ...]:
    """Whether each answer of a row is desirable, in the order of its examples."""
    if isinstance(conversation, Preferred):
        return (True, False)
    assert isinstance(conversation, Judged)
    return (conversation.desirable,)


def _judged(convert: Callable[[Row], Askable], column: str) -> Callable[[Row], Judged]:
    return lambda row: Judged(convert(row), _desirable(row[column], column))


def _last_alone(convert: Callable[[Row], Conversation]) -> Callable[[Row], Conversation]:
    """Of a conversation what follows the last question is judged."""

    def converted(row: Row) -> Conversation:
        found = convert(row)
        asked = last_question(found.messages)
        if asked == len(found.messages):
            raise DataError("the last message is not an answer of the assistant")
        before = [{**message, "train": False} for message in found.messages[:asked]]
        return replace(found, messages=(*before, *found.messages[asked:]))

    return converted


def _desirable(value: Any, column: str) -> bool:
    known = value if isinstance(value, bool) else _WORDS.get(str(value).strip().casefold())
    if known is None:
        raise DataError(f"{column} is {value!r}: it must be true, for a desirable answer, or false")
    return known


_ANSWERS: tuple[tuple[str, tuple[str, ...], Callable[[Row], Askable], tuple[str, ...]], ...] = (
    ("messages", ("messages",), _last_alone(openai_conversation), ("tools", "system")),
    ("ShareGPT", ("conversations",), _last_alone(sharegpt_conversation), ("tools", "system")),
    ("prompt, completion", ("prompt", "completion"), prompt_and_completion, ("tools",)),
    (
        "Alpaca",
        ("instruction", "output"),
        _last_alone(alpaca_conversation),
        ("input", "system", "history"),
    ),
)

JUDGED = (
    *(
        Shape(f"{name}, {column}", (*columns, column), _judged(convert, column), optional)
        for column in ("label", "kto_tag")
        for name, columns, convert, optional in _ANSWERS
    ),
    *PREFERENCES,
)
"""Of a pair the better answer is desirable, and the worse one is not."""
