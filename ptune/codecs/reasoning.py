"""Detects how a chat template marks what a model thinks before it answers, by rendering some, so that nobody has to name it.

Most templates write `<think>…</think>` around it, gpt-oss a channel of its own. Some never show what was thought and only open
or close it in the prompt; those are recognised by that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ptune.codecs.template import ChatTemplate, Message
from ptune.errors import TemplateError

_QUESTION: Message = {"role": "user", "content": "Where is Oslo?"}
_THOUGHT, _SAID = "Recall the maps.", "In Norway."
_ON: tuple[dict[str, bool], ...] = ({}, {"enable_thinking": True}, {"thinking": True})
MARK = r"<[^<>\s]+>|\[[^\[\]\s]+\]"
"""Matches a tag, such as <think>, <|channel|> or [/THINK]."""


@dataclass(frozen=True, slots=True)
class ReasoningFormat:
    """The texts around what is thought, as the template writes them, white space at their edges included."""

    begin: str  # before what is thought, e.g. "<think>\n"
    end: str  # between that and the answer, e.g. "\n</think>\n\n"
    plain: str = ""  # before an answer without any, e.g. gpt-oss's "<|channel|>final<|message|>"

    @property
    def longest(self) -> int:
        """Most tokens that a mark and white space after it have."""
        return max(len(self.begin.encode()), len(self.end.encode())) + 8

    @property
    def opening(self) -> str:
        """The mark that begins it, without white space."""
        return self.begin.strip()

    @property
    def closing(self) -> str:
        """The mark that ends it, without white space."""
        return self.end.strip()


def reasoning_format(template: ChatTemplate, variables: Mapping[str, Any]) -> ReasoningFormat | None:
    """How a template marks what is thought; None if it marks none. variables: further ones of the template."""
    ways = [{**variables, **on} for on in _ON if on.keys() <= template.variables]
    found = (_shown(template, way) for way in ways)
    shown = next(filter(None, found), None)
    return shown or _opened(template, ways) or _closed_at_once(template, ways)


def _shown(template: ChatTemplate, variables: Mapping[str, Any]) -> ReasoningFormat | None:
    """The marks of a template that shows what was thought."""
    prompt = _written(template, variables)
    before, _, after = _written(template, variables, reasoning_content=_THOUGHT).partition(_THOUGHT)
    end, said, _ = after.partition(_SAID)
    if not said or not end.strip():
        return None
    begin = before[len(prompt) :] if before.startswith(prompt) else ""
    if not begin.strip():  # the prompt has begun it
        begin = _last_mark(before)
    if not begin:
        return None
    bare, *_ = _written(template, variables, reasoning_content=None).partition(_SAID)
    plain = bare[len(prompt) :] if prompt and bare.startswith(prompt) else ""
    marked = not plain.strip() or begin.strip() in plain or end.strip() in plain
    return ReasoningFormat(begin, end, "" if marked else plain)


def _opened(template: ChatTemplate, ways: list[dict[str, Any]]) -> ReasoningFormat | None:
    """The marks of a template that opens it in the prompt and knows the other mark, but drops what was thought."""
    for prompt in (_written(template, way) for way in ways):
        match = re.search(r"<(\w+)>(\s*)$", prompt)
        if match is not None and f"</{match[1]}>" in template.literals:
            # What follows is not shown anywhere: line ends where it has one itself, as models write it.
            return ReasoningFormat(match[0], f"{match[2]}</{match[1]}>{match[2] * 2}")
    return None


def _closed_at_once(template: ChatTemplate, ways: list[dict[str, Any]]) -> ReasoningFormat | None:
    """The marks of a template that writes both around nothing, in a prompt for an answer without thought."""
    off = {"enable_thinking": False}
    if not off.keys() <= template.variables:
        return None
    for way in ways:
        on, closed = _written(template, way), _written(template, {**way, **off})
        match = re.fullmatch(rf"({MARK})(\s*)({MARK})(\s*)", closed.removeprefix(on))
        if match is not None and match[1] != match[3]:
            half = (len(match[2]) + 1) // 2
            return ReasoningFormat(match[1] + match[2][:half], match[2][half:] + match[3] + match[4])
    return None


def _last_mark(text: str) -> str:
    """The mark at the end of a text, with white space after it."""
    match = re.search(rf"(?:{MARK})\s*$", text)
    return "" if match is None else match[0]


def _written(template: ChatTemplate, variables: Mapping[str, Any], **answer: Any) -> str:
    """The template's text for a question or, with an answer's fields, for both; empty if it refuses them."""
    messages = [_QUESTION, {"role": "assistant", "content": _SAID, **answer}] if answer else [_QUESTION]
    try:
        return template.render(messages, add_generation_prompt=not answer, **variables)
    except TemplateError:
        return ""
