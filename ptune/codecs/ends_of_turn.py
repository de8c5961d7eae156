"""The tokens that end a turn, found by having the template write turns."""

from __future__ import annotations

import re

from ptune.codecs.control_tokens import ControlTokens
from ptune.codecs.private_use import unused_characters
from ptune.codecs.template import ChatTemplate, Message
from ptune.errors import TemplateError


def tokens_that_end_turns(template: ChatTemplate, control: ControlTokens) -> set[str]:
    """The tokens that the template writes right after an answer and at the end of a tool call, if any."""
    mark = next(unused_characters(template.source))
    call = {"id": "a" * 9, "type": "function", "function": {"name": mark, "arguments": {}}}
    after_answer = _after(template, mark, {"content": mark})
    after_call = _after(template, mark, {"content": "", "tool_calls": [call]})
    closes_call = f"(?:{control.special.pattern})$"  # any text before it closes the call itself
    matches = (control.every.match(after_answer), re.search(closes_call, after_call))
    return {match[0] for match in matches if match is not None}


def _after(template: ChatTemplate, mark: str, answer: Message) -> str:
    """The template's text after the last `mark` in an answer; empty if it refuses the answer or omits the mark."""
    try:
        text = template.render([{"role": "user", "content": "?"}, {"role": "assistant", **answer}])
    except TemplateError:
        return ""
    return text.rpartition(mark)[2].strip() if mark in text else ""
