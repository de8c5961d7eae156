"""Conversations as training rows: OpenAI's messages, as `ptune train chat_lora --data.files` reads them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import takewhile
from typing import Any

from .thread import Answer, Thread, Turn

Row = dict[str, Any]


def rows_of(threads: Iterable[Thread], *, good_only: bool) -> list[Row]:
    """A row of each way from a first question to a last answer.

    good_only: rows end at answers with a thumb up or a correction, and others in them are no targets. An answer with a
    thumb down is a target in no row.
    """
    rows = [
        row
        for thread in threads
        for column in range(thread.columns)
        for row in _rows_of_column(thread, column, good_only)
    ]
    return list({json.dumps(row, sort_keys=True): row for row in rows}.values())


def jsonl(rows: Iterable[Row]) -> str:
    """A line of JSON each."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _rows_of_column(thread: Thread, column: int, good_only: bool) -> Iterator[Row]:
    """Rows of the longest ways to targets: one that is the beginning of another is in that."""
    ways = []
    for last in thread.branches:
        way = [(turn, turn.answers[column]) for turn in map(thread.turns.__getitem__, thread.way_to(last))]
        given = ((turn, answer) for turn, answer in way if answer is not None)
        answered = list(takewhile(lambda one: _can_be_read(one[1]), given))
        while answered and not _is_target(answered[-1][1], good_only):
            answered.pop()
        if answered:
            ways.append(answered)
    for found in ways:
        if not any(len(other) > len(found) and other[: len(found)] == found for other in ways):
            yield _row(found, good_only)


def _can_be_read(answer: Answer) -> bool:
    """Whether the arguments of its calls are as templates need them; a call that was cut off cannot be learned from."""
    if answer.correction is not None:
        return True
    try:
        return all(isinstance(json.loads(call.arguments), dict) for call in answer.calls)
    except (ValueError, RecursionError):
        return False


def _is_target(answer: Answer, good_only: bool) -> bool:
    if answer.correction is not None:
        return True
    if answer.liked is None:
        return not good_only and bool(answer.text or answer.calls)
    return answer.liked


def _row(way: list[tuple[Turn, Answer]], good_only: bool) -> Row:
    last = way[-1][1]  # what the conversation was told at its end
    messages: list[Row] = [{"role": "system", "content": last.system}] if last.system.strip() else []
    calls: tuple[str, ...] = ()
    for turn, answer in way:
        messages += question_messages(turn, calls)
        messages.append(answer_message(answer))
        if not _is_target(answer, good_only):
            messages[-1]["weight"] = 0
        calls = open_calls(answer)
    return {"messages": messages, **({"tools": json.loads(last.tools)} if last.tools else {})}


def question_messages(turn: Turn, calls: tuple[str, ...]) -> list[Row]:
    """What was asked, in OpenAI's messages. calls: of the answer before, for which this is the result."""
    if calls:
        return [{"role": "tool", "tool_call_id": call, "content": turn.question} for call in calls]
    if not turn.images:
        return [{"role": "user", "content": turn.question}]
    images = [{"type": "image_url", "image_url": {"url": uri}} for uri in turn.images]
    text = [{"type": "text", "text": turn.question}] if turn.question else []
    return [{"role": "user", "content": [*images, *text]}]


def open_calls(answer: Answer) -> tuple[str, ...]:
    """The calls of functions that the next question is the result of."""
    return () if answer.correction is not None else tuple(call.id for call in answer.calls)


def answer_message(answer: Answer) -> Row:
    """What was answered, as corrected, in OpenAI's messages."""
    message: Row = {"role": "assistant", "content": answer.said}
    if answer.correction is not None:
        return message
    if answer.thought:
        message["reasoning_content"] = answer.thought
    if answer.calls:
        message["content"] = answer.said or None
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in answer.calls
        ]
    return message


def sent_messages(thread: Thread, column: int, system: str) -> list[Row]:
    """What a column's model is asked: the way to the last question."""
    messages: list[Row] = [{"role": "system", "content": system}] if system.strip() else []
    calls: tuple[str, ...] = ()
    for place, turn, answer in thread.shown_turns(column):
        messages += question_messages(turn, calls)
        if answer is not None and place != thread.at:
            messages.append(answer_message(answer))
            calls = open_calls(answer)
    return messages
