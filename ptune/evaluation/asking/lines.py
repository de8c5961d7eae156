"""Questions as JSON lines, and answers as JSON lines: what keeps a model loaded between questions.

    {"text": "Define: Patience", "max_tokens": 64}
    {"side": "base", "text": "A tree."}
    {"side": "tuned", "text": "A minor form of despair, disguised as a virtue."}
    {"done": true}

In place of what is missing stands {"problem": "why"}.
"""

from __future__ import annotations

import json
import os
import select
from collections.abc import Callable, Iterator
from typing import Any

from ptune.errors import PtuneError, UsageError
from ptune.evaluation.asking.question import SIDES, Asker, Question

_READ_BYTES = 1 << 16


def answer_lines(
    ask: Asker, needed: tuple[str, ...], lines: Iterator[bytes], tell: Callable[[dict[str, Any]], None]
) -> None:
    """Answers each line. needed: the fields that a question must have."""
    for line in lines:
        if not line.strip():
            continue
        try:
            question = _question(line).checked(needed)
            for side in SIDES:
                tell({"side": side, **ask(side, question).described()})
            tell({"done": True})
        except PtuneError as error:
            tell({"problem": str(error)})


def lines_of(descriptor: int, idle_s: float | None = None) -> Iterator[bytes]:
    """The lines that come in, until they end, or until none has come for so many seconds; those that answers take not
    counted."""
    pending = b""
    while True:
        line, ended, rest = pending.partition(b"\n")
        if ended:
            pending = rest
            yield line
            continue
        if not select.select([descriptor], [], [], idle_s)[0]:
            return
        more = os.read(descriptor, _READ_BYTES)
        if not more:
            yield pending
            return
        pending += more


def _question(line: bytes) -> Question:
    try:
        return Question.of_description(json.loads(line))
    except ValueError:
        raise UsageError("a question is one line of JSON") from None
