"""Turns the tokens of an answer into text while they arrive: what is thought, and what is said up to a stop text."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from ptune.codecs.held_back import held_back
from ptune.codecs.reading import Reading
from ptune.codecs.reasoning_reader import Thought
from ptune.codecs.tool_reader import Said
from ptune.engine.decoder.request import NO_TOKEN, Token
from ptune.engine.job import Finish
from ptune.errors import RequestError


@dataclass(frozen=True, slots=True)
class Delta:
    """The text that one token adds to an answer. It is held back while it could still become a stop text or a mark."""

    text: str
    token: Token | None
    finish: Finish | None
    reasoning: str = ""
    """What was thought before the answer; `text` is without it."""
    reasoning_tokens: int = 0
    """Tokens, this one and earlier ones, that are known now to be of the reasoning, with its marks."""
    stop: str | None = None
    """The stop text that ended the answer; it is no part of `text`."""

    def __str__(self) -> str:
        return self.text


class _TokenStream(Protocol):
    shown: Collection[int]

    def push(self, token: int, /) -> str: ...
    def finish(self) -> str: ...


class _Streaming(Protocol):
    def stream(self, shown: Collection[int] = ..., after: int | None = ..., /) -> _TokenStream: ...


class TextStream:
    """Turns the tokens of a sequence into text as soon as it is certain: whole characters, and no start of a stop text.

    The texts of all deltas together are the decoded tokens, cut before the stop text that is completed first (of those
    completed at the same place, the longest).

    Stop texts count in what is said, not in what is thought.

    shown: special tokens that are written out, as marks of tool calls have to be.
    min_tokens: a stop text that is complete after so many tokens, or earlier, is text like any other.
    after: the token of a text that these tokens go on from.
    reading: how what is thought is told from what is said; None = all is said.
    """

    def __init__(
        self,
        codec: _Streaming,
        stop: Sequence[str] = (),
        shown: Collection[int] = frozenset(),
        *,
        min_tokens: int = 0,
        after: int | None = None,
        reading: Reading | None = None,
    ) -> None:
        """Raises: RequestError for an empty stop text."""
        if "" in stop:
            raise RequestError("a stop text may not be empty", param="stop", code="invalid_value")
        self._shown = frozenset(shown)
        self._thinking = None if reading is None else _Thinking(reading)
        marks = frozenset[int]() if reading is None else reading.shown
        self._stream = codec.stream(self._shown | marks, after)
        self._stop = tuple(stop)
        self._unstopped = min_tokens  # tokens that no stop text ends
        self._held = ""  # decoded, but may be the beginning of a stop text
        self._finish: Finish | None = None

    def push(self, token: Token) -> list[Delta]:
        """The delta of a token; none after a stop text, as the engine may be a step ahead."""
        if self._finish is not None:
            return []
        if token.prompt:
            return [Delta("", token, None)]
        spoken = token.id != NO_TOKEN and token.finish != "stop"  # the token that ends a sequence is not text
        before = len(self._held)
        said = self._stream.push(token.id) if spoken else ""
        if token.finish is not None:
            said += self._stream.finish()
        thought, counted = "", 0
        if self._thinking is not None:
            thought, said, counted = self._thinking.read(said, counts=spoken, last=token.finish is not None)
            if self._thinking.over:
                self._stream.shown = self._shown
        self._held += said
        if self._unstopped > 0:
            self._unstopped, before = self._unstopped - 1, len(self._held)
        text, stop = self._release(before, last=token.finish is not None)
        self._finish = token.finish if stop is None else "stop"
        return [Delta(text, token, self._finish, thought, counted, stop)]

    def _release(self, before: int, *, last: bool) -> tuple[str, str | None]:
        """Takes from what is held all that is sure; the stop text that ended it, if one did.

        before: so many characters are held that no stop text ends in.
        """
        found = ((self._held.find(stop, max(0, before - len(stop) + 1)), stop) for stop in self._stop)
        places = [(begin, stop) for begin, stop in found if begin >= 0]
        if places:
            begin, stop = min(places, key=lambda place: (place[0] + len(place[1]), place[0]))
            return self._held[:begin], stop
        keep = 0 if last else held_back(self._held, self._stop)
        text, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return text, None


class _Thinking:
    """Takes what is thought out of the text of an answer, and counts its tokens."""

    def __init__(self, reading: Reading) -> None:
        self._reader = reading.reader()
        self._undecided = 0  # tokens that may be of a mark

    @property
    def over(self) -> bool:
        return self._reader.over

    def read(self, text: str, *, counts: bool, last: bool) -> tuple[str, str, int]:
        """More text of a token: what is thought, what is said, and how many tokens are known now to be of the former.

        counts: whether it is a token of the text. last: no text follows.
        """
        was_over = self._reader.over
        events = self._reader.push(text)
        events += self._reader.finish() if last else []
        thought = "".join(event.text for event in events if isinstance(event, Thought))
        said = "".join(event.text for event in events if isinstance(event, Said))
        if was_over or not counts:
            return thought, said, 0
        self._undecided += 1
        counted = self._undecided if self._reader.begun else 0
        self._undecided -= counted
        return thought, said, counted
