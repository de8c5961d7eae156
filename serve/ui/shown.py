"""A conversation as a chatbot shows it: thoughts and calls folded, images as they are, all else as harmless Markdown."""

from __future__ import annotations

import json
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

from .neutral import neutral
from .thread import Answer, Call, Thread, Turn

Part = dict[str, Any]
"""A message as gradio's chatbot takes it, but an image is `{"image": URI}` in its content."""


@dataclass(frozen=True)
class Place:
    """What a message of the chatbot shows."""

    turn: int
    kind: Literal["question", "thought", "call", "answer"]


def shown(thread: Thread, column: int) -> list[tuple[Part, Place]]:
    """The messages of a column, each with what it shows."""
    parts: list[tuple[Part, Place]] = []
    for place, turn, answer in thread.shown_turns(column):
        parts.append((_question(turn), Place(place, "question")))
        if answer is not None:
            parts += [(part, Place(place, kind)) for part, kind in _answer(answer)]
    return parts


def verdicts(thread: Thread, column: int) -> list[str | None]:
    """The thumbs of a column's answers, in the words of gradio's buttons."""
    words = {None: None, True: "Like", False: "Dislike"}
    return [words[answer.liked] for _, _, answer in thread.shown_turns(column) if answer is not None]


def _question(turn: Turn) -> Part:
    images = [{"image": uri} for uri in turn.images]
    return {"role": "user", "content": [{"type": "text", "text": neutral(turn.question)}, *images]}


def _answer(answer: Answer) -> list[tuple[Part, Literal["thought", "call", "answer"]]]:
    parts: list[tuple[Part, Literal["thought", "call", "answer"]]] = []
    if answer.thought:
        title, status = f"Thought for {max(1, round(answer.thought_s))} s", "done"
        if answer.thinking:
            title, status = "Thinking …", "pending"
        parts.append((_folded(neutral(answer.thought), title, status), "thought"))
    if answer.correction is None:
        parts += [(_called(call), "call") for call in answer.calls]
    if answer.said or not parts:
        parts.append((_said(neutral(answer.said)), "answer"))
    return parts


def _called(call: Call) -> Part:
    """A call of a function, with its arguments as code."""
    try:
        arguments = json.dumps(json.loads(call.arguments), ensure_ascii=False, indent=2)
    except ValueError:  # under way, or not as it should be
        arguments = call.arguments
    ticks = "`" * max(3, 1 + max(map(len, arguments.split("\n")), default=0) * ("`" in arguments))
    return _folded(f"{ticks}json\n{arguments}\n{ticks}", f"Calls {neutral(call.name)}", "done")


def _folded(text: str, title: str, status: str) -> Part:
    return {**_said(text), "metadata": {"title": title, "status": status}}


def _said(text: str) -> Part:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def picture(uri: str) -> str:
    """An image of a question as HTML."""
    return f'<img class="asked" alt="Image of the question" src="{escape(uri)}">'
