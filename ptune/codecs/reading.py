"""How the answers to one prompt are read: whether the prompt has begun or ended the reasoning, and where a form begins."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from ptune.codecs import structured_output as lark
from ptune.codecs.reasoning import MARK, ReasoningFormat
from ptune.codecs.reasoning_reader import ReasoningReader
from ptune.codecs.structured_output import StructuredOutput
from ptune.codecs.tool_reader import Said

Special = Callable[[str], int | None]
"""Returns the token of a text that is exactly one token which decoding leaves out, else None."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How the answers to one prompt are read."""

    form: ReasoningFormat
    begun: bool  # by the prompt
    closing: tuple[int, ...]  # the mark that ends it, as tokens behind other text
    special: Special

    def reader(self) -> ReasoningReader:
        """A reader for one answer."""
        return ReasoningReader(self.form, begun=self.begun)

    def said(self, text: str) -> str:
        """What a whole answer says, without what was thought."""
        reader = self.reader()
        events = [*reader.push(text), *reader.finish()]
        return "".join(event.text for event in events if isinstance(event, Said))

    @property
    def shown(self) -> frozenset[int]:
        """The special tokens of the marks, which the reader needs to see."""
        texts = (piece for mark in _marks(self.form) for piece in _pieces(mark))
        return frozenset(token for token in map(self.special, texts) if token is not None)

    def formed(self, output: StructuredOutput) -> StructuredOutput:
        """A grammar for answers that have this form after the reasoning, which has none."""
        form = self.form
        first, *rest = _pieces(form.closing)
        token = self.special(first)
        if token is None:
            rules = [f"thought_text[lazy]: {lark.TEXT} {lark.literal(first)}"]
            thought = ["thought_text"]
        else:
            rules = [f"THOUGHT_TEXT: {lark.TEXT}"]
            thought = ["THOUGHT_TEXT", lark.token(token)]
        space = form.end[len(form.end.rstrip()) :]
        spaces = [lark.literal(space[:end]) for end in range(len(space), 0, -1)]
        thought += [*self._expressions(rest), *([f"({' | '.join(spaces)})?"] if spaces else [])]
        if self.begun:
            before = "thought"
        else:
            before = " ".join([*self._expressions(_pieces(form.opening)), "thought"])
            plain = " ".join(self._expressions(_pieces(form.plain.strip())))
            before = f"({before}{f' | {plain}' if plain else ''})?"
        rules.append(f"thought: {' '.join(thought)}")
        return StructuredOutput(f"{before} ({output.expression})", (*output.rules, *rules))

    def _expressions(self, texts: list[str]) -> list[str]:
        tokens = ((text, self.special(text)) for text in texts)
        return [lark.literal(text) if token is None else lark.token(token) for text, token in tokens]


def reading_after(reading: Reading, prompt: str, answer: str | None) -> Reading | None:
    """The reading of answers after the end of a prompt; None where that has ended the reasoning, too.

    answer: what is there of an answer that goes on; None for a new one.
    """
    form = reading.form
    if answer is not None:
        thinks = form.closing not in answer.rpartition(form.opening)[2] and form.opening in answer
        return replace(reading, begun=True) if thinks else None
    end = prompt.rstrip()
    if end.endswith(form.closing):
        return None
    return replace(reading, begun=end.endswith(form.opening))


def _marks(form: ReasoningFormat) -> Iterator[str]:
    yield from (form.opening, form.closing, form.plain)


def _pieces(mark: str) -> list[str]:
    """The tags of a mark, and the text between them."""
    return [piece for piece in re.split(f"({MARK})", mark) if piece]
