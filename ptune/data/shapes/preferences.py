"""Rows with two answers to one prompt, in the shapes that other tools write, and their examples as pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

from ptune.codecs.chat import Example
from ptune.data.examples.store import Examples
from ptune.data.shapes.conversations import (
    Completion,
    Conversation,
    Preferred,
    Row,
    Shape,
    alpaca_prompt,
    led,
    messages_of,
    tools_of,
)
from ptune.data.shapes.json_text import messages_or_text, objects_of
from ptune.data.shapes.sharegpt import turn_of
from ptune.errors import DataError

SIDES = ("chosen", "rejected")


@dataclass(frozen=True, slots=True)
class Pair:
    """The examples of two answers to one prompt."""

    chosen: Example
    rejected: Example
    split: str
    number: int  # in its split

    def __len__(self) -> int:
        return len(self.chosen) + len(self.rejected)

    @property
    def sides(self) -> tuple[Example, Example]:
        """The better answer's first."""
        return self.chosen, self.rejected


@dataclass(frozen=True)
class Pairs(Sequence[Pair]):
    """The pairs of a split; its examples are chosen, rejected, chosen, …"""

    examples: Examples
    split: str

    def __len__(self) -> int:
        return len(self.examples) // 2

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> list[Pair]: ...
    def __getitem__(self, index: int | slice) -> Pair | list[Pair]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        return Pair(self.examples[2 * number], self.examples[2 * number + 1], self.split, number)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each pair."""
        pairs: list[int] = self.examples.lengths.reshape(-1, 2).sum(1).tolist()
        return pairs


def _after(prompt: Sequence[Row], answers: Sequence[Any], row: Row) -> Preferred:
    """Answers, each a text or messages, to a prompt of messages, none of which is a target."""
    before = [{**message, "train": False} for message in prompt]

    def side(name: str, answer: Any) -> Conversation:
        if isinstance(answer, str):
            answer = [{"role": "assistant", "content": answer}]
        elif isinstance(answer, dict):
            answer = [turn_of(answer, name)]
        messages = messages_of(answer, name)
        if not any(message.get("role") == "assistant" for message in messages):
            raise DataError(f"{name} has no message of the assistant")
        return Conversation((*before, *messages), tools_of(row))

    chosen, rejected = (side(name, answer) for name, answer in zip(SIDES, answers, strict=True))
    return Preferred(chosen, rejected)


def _openai(row: Row) -> Preferred:
    asked = row["input"]
    if not isinstance(asked, dict) or "messages" not in asked:
        raise DataError("input must be an object with messages")
    answers = [objects_of(row[name], name) for name in ("preferred_output", "non_preferred_output")]
    return _after(messages_of(asked["messages"], "input.messages"), answers, asked)


def _prompted(row: Row) -> Preferred:
    prompt, answers = (
        messages_or_text(row["prompt"], "prompt"),
        [messages_or_text(row[side], side) for side in SIDES],
    )
    if isinstance(prompt, str) and all(isinstance(answer, str) for answer in answers):
        return Preferred(*(Completion(prompt, answer) for answer in answers))
    if all(_whole(answer) for answer in answers):
        return _implicit(row)  # whole conversations, which repeat the prompt
    asked = (
        [{"role": "user", "content": prompt}] if isinstance(prompt, str) else messages_of(prompt, "prompt")
    )
    return _after(led(row, list(asked)), answers, row)


def _implicit(row: Row) -> Preferred:
    """Two whole conversations, which begin alike."""
    chosen, rejected = (messages_of(messages_or_text(row[side], side), side) for side in SIDES)
    alike = 0
    for one, other in zip(chosen, rejected, strict=False):
        if one != other:
            break
        alike += 1
    # What both end with is an answer, even where it is the same.
    alike = min([alike, *(last_question(messages) for messages in (chosen, rejected))])
    if alike == 0:
        raise DataError(
            "chosen and rejected have no beginning in common: both must hold the prompt, or a column prompt"
        )
    return _after(led(row, list(chosen[:alike])), (chosen[alike:], rejected[alike:]), row)


def last_question(messages: Sequence[Row]) -> int:
    """Number of messages before the answer that ends a conversation."""
    count = len(messages)
    while count and messages[count - 1].get("role") == "assistant":
        count -= 1
    return count


def _messages(row: Row) -> Preferred:
    return _after(
        led(row, list(messages_of(row["messages"], "messages"))), [row[side] for side in SIDES], row
    )


def _sharegpt(row: Row) -> Preferred:
    turns = objects_of(row["conversations"], "conversations")
    prompt = [turn_of(turn, f"conversations[{index}]") for index, turn in enumerate(turns)]
    return _after(messages_of(led(row, prompt), "conversations"), [row[side] for side in SIDES], row)


def _alpaca(row: Row) -> Preferred:
    return _after(alpaca_prompt(row), [row[side] for side in SIDES], row)


def _whole(answer: Any) -> bool:
    """Whether an answer is a whole conversation, which begins with the prompt."""
    first = answer[0] if isinstance(answer, list) and answer else None
    return isinstance(first, dict) and first.get("role") in ("system", "developer", "user")


PREFERENCES = (
    Shape("OpenAI preferences", ("input", "preferred_output", "non_preferred_output"), _openai),
    Shape("messages, chosen, rejected", ("messages", *SIDES), _messages, ("tools", "system")),
    Shape("ShareGPT, chosen, rejected", ("conversations", *SIDES), _sharegpt, ("tools", "system")),
    Shape("prompt, chosen, rejected", ("prompt", *SIDES), _prompted, ("tools", "system")),
    Shape("Alpaca, chosen, rejected", ("instruction", *SIDES), _alpaca, ("input", "system", "history")),
    Shape("chosen and rejected conversations", SIDES, _implicit, ("tools", "system")),
)
