"""A source on its way through an encoder-decoder, and what has been written of it. No thread and no graph."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from ptune.codecs.seq2seq import Writing
from ptune.engine.adapters.lora import Adapter
from ptune.engine.onnx_graph import Array
from ptune.errors import PtuneError, RequestError
from ptune.formats.bundle import BASE

Finish = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True)
class Sentence:
    """A source to be written anew. Raises: RequestError where a field is out of range."""

    source: tuple[int, ...]
    adapter: str = BASE
    max_tokens: int = 256
    given: tuple[int, ...] = ()  # to be written whatever the model says, for its logits: see `Written`
    deadline_s: float | None = None  # seconds after its submission at which it is ended; None = never

    def __post_init__(self) -> None:
        if not self.source:
            raise RequestError("a source is one or more tokens", param="text", code="invalid_value")
        if self.max_tokens < 1:
            raise RequestError(
                f"max_tokens must be 1 or more (is {self.max_tokens})",
                param="max_tokens",
                code="invalid_value",
            )

    def require_servable(self, vocab_size: int, context: int) -> None:
        """Raises: RequestError where the model cannot take it. context: of sources and of targets, in tokens."""
        if len(self.source) > context:
            raise RequestError(
                f"the source has {len(self.source)} tokens, the model takes {context}: send it in parts",
                param="text",
                code="context_length_exceeded",
            )
        wanted = len(self.given) or self.max_tokens
        if wanted > context:
            raise RequestError(
                f"max_tokens is {wanted}, the model takes {context}",
                param="max_tokens",
                code="context_length_exceeded",
            )
        if not all(0 <= token < vocab_size for token in (*self.source, *self.given)):
            raise RequestError(f"tokens are 0 to {vocab_size - 1}", param="text", code="invalid_value")


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a source."""

    ids: tuple[int, ...]  # the end token included, where there is one
    finish: Finish
    logits: Array | None = None  # [tokens, vocab] in front of each token of `given`


def _running() -> Future[Written]:
    """One that only the engine can end: whoever stops waiting for it does not take it away from under a pass."""
    future: Future[Written] = Future()
    future.set_running_or_notify_cancel()
    return future


@dataclass(eq=False)
class Ticket:
    """A request on its way. wake: tells the engine that there is something to look at."""

    sentence: Sentence
    wake: Callable[[], None]
    done: Future[Written] = field(default_factory=_running)
    came_s: float = field(default_factory=time.monotonic)
    cancelled: bool = False
    adapter: Adapter | None = None  # None = the bare base; once taken, a drop of the adapter is no matter
    ids: list[int] = field(default_factory=list)
    logits: list[Array] = field(default_factory=list)

    def result(self, timeout_s: float | None = None) -> Written:
        """Waits for the end. Raises: RequestError where it was given up, PtuneError where the engine failed."""
        return self.done.result(timeout_s)

    def cancel(self) -> None:
        """Ends the request before its next token; what was written stays its result. May come too late."""
        if not self.done.done():
            self.cancelled = True
            self.wake()

    @property
    def late_s(self) -> float:
        """When its deadline passes, on the monotonic clock."""
        limit_s = self.sentence.deadline_s
        return math.inf if limit_s is None else self.came_s + limit_s

    @property
    def over(self) -> bool:
        """Whether it is to be ended, finished or not."""
        return self.cancelled or time.monotonic() >= self.late_s

    def give_up(self) -> None:
        """A late one keeps what was written, as one that has reached `max_tokens`; one of which nothing was fails."""
        if self.cancelled or self.ids:
            self._end("cancelled" if self.cancelled else "length")
        else:
            limit = f"the request's deadline of {self.sentence.deadline_s:g} s"
            message = f"{limit} passed before its first token; try again later, or allow more time"
            self.fail(RequestError(message, code="deadline_exceeded", status=503))

    def fail(self, error: PtuneError) -> None:
        """Ends it with an error, if it has not ended."""
        if not self.done.done():
            self.done.set_exception(error)

    def write(self, logits: Array, writing: Writing) -> bool:
        """Writes the next token, of [vocab] logits; returns whether it was the last."""
        given, at = self.sentence.given, len(self.ids)
        if given:
            self.logits.append(logits)
            self.ids.append(given[at])
            last = at + 1 == len(given)
            if last:
                self._end("length")
            return last
        last = at + 1 == self.sentence.max_tokens
        token = chosen(logits, writing, first=at == 0, last=last)
        self.ids.append(token)
        ended = token in writing.eos_ids
        if ended or last:
            forced = last and token == writing.forced_eos_id
            self._end("stop" if ended and not forced else "length")
        return ended or last

    def _end(self, finish: Finish) -> None:
        logits = np.stack(self.logits) if self.logits else None
        self.done.set_result(Written(tuple(self.ids), finish, logits))


def chosen(logits: Array, writing: Writing, *, first: bool, last: bool) -> int:
    """The next token: the likeliest, of equals the first, but what the family forces; [vocab] logits."""
    if first and writing.forced_bos_id is not None:
        return writing.forced_bos_id
    if last and writing.forced_eos_id is not None:
        return writing.forced_eos_id
    if writing.banned_ids:
        logits = logits.copy()
        logits[list(writing.banned_ids)] = -np.inf
    return int(logits.argmax())
