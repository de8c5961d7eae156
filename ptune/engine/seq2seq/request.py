"""A source on its way through an encoder-decoder, and its output. No thread and no graph."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from ptune.codecs.seq2seq import Writing
from ptune.engine.adapters.lora import Adapter
from ptune.engine.job import Finish, deadline_passed, shutting_down
from ptune.engine.onnx_graph import Array
from ptune.errors import PtuneError, RequestError
from ptune.formats.bundle import BASE


@dataclass(frozen=True, slots=True)
class Seq2SeqRequest:
    """A source to be translated. Raises: RequestError where a field is out of range."""

    source: tuple[int, ...]
    adapter: str = BASE
    max_tokens: int = 256
    forced_ids: tuple[int, ...] = ()  # generated whatever the model predicts, for their logits
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
        target_tokens = len(self.forced_ids) or self.max_tokens
        if target_tokens > context:
            raise RequestError(
                f"max_tokens is {target_tokens}, the model takes {context}",
                param="max_tokens",
                code="context_length_exceeded",
            )
        if not all(0 <= token < vocab_size for token in (*self.source, *self.forced_ids)):
            raise RequestError(f"tokens are 0 to {vocab_size - 1}", param="text", code="invalid_value")


@dataclass(frozen=True, slots=True)
class Seq2SeqOutput:
    """The generated target."""

    ids: tuple[int, ...]  # with the end token, where there is one
    finish: Finish
    logits: Array | None = None  # [tokens, vocab] that predict each of the request's `forced_ids`


def _running() -> Future[Seq2SeqOutput]:
    """Makes a future that only the engine can end: a waiter that gives up does not cancel it during a step."""
    future: Future[Seq2SeqOutput] = Future()
    future.set_running_or_notify_cancel()
    return future


@dataclass(eq=False)
class Seq2SeqJob:
    """A request on its way, a `ptune.engine.job.Job`."""

    request: Seq2SeqRequest
    wake: Callable[[], None]  # makes the engine look at it
    deadline_s: float  # on the engine's clock
    done: Future[Seq2SeqOutput] = field(default_factory=_running)
    cancelled: bool = False
    expired: bool = False
    adapter: Adapter | None = None  # None = the bare base; dropping the adapter later does not matter
    ids: list[int] = field(default_factory=list)
    logits: list[Array] = field(default_factory=list)

    def result(self, timeout_s: float | None = None) -> Seq2SeqOutput:
        """Waits for the end. Raises: RequestError where it expired or the engine closed; PtuneError where a step failed."""
        return self.done.result(timeout_s)

    def cancel(self) -> None:
        """Ends the request before its next token; its output so far is its result. May be too late."""
        if not self.done.done():
            self.cancelled = True
            self.wake()

    @property
    def ended(self) -> bool:
        return self.cancelled or self.expired

    def give_up(self) -> None:
        """Ends an expired job with its output so far, as `max_tokens` would; one without output fails."""
        if self.cancelled or self.ids:
            self._end("cancelled" if self.cancelled else "length")
        else:
            self.fail(deadline_passed(self.request.deadline_s))

    def shut_down(self) -> None:
        self.fail(shutting_down())

    def fail(self, error: PtuneError) -> None:
        """Ends it with an error, unless it has ended."""
        if not self.done.done():
            self.done.set_exception(error)

    def append(self, logits: Array, writing: Writing) -> bool:
        """Generates the next token from [vocab] logits; returns whether it was the last."""
        forced_ids, index = self.request.forced_ids, len(self.ids)
        if forced_ids:
            self.logits.append(logits)
            self.ids.append(forced_ids[index])
            last = index + 1 == len(forced_ids)
            if last:
                self._end("length")
            return last
        last = index + 1 == self.request.max_tokens
        token = chosen(logits, writing, first=index == 0, last=last)
        self.ids.append(token)
        ended = token in writing.eos_ids
        if ended or last:
            forced = last and token == writing.forced_eos_id
            self._end("stop" if ended and not forced else "length")
        return ended or last

    def _end(self, finish: Finish) -> None:
        logits = np.stack(self.logits) if self.logits else None
        self.done.set_result(Seq2SeqOutput(tuple(self.ids), finish, logits))


def chosen(logits: Array, writing: Writing, *, first: bool, last: bool) -> int:
    """Chooses the most likely token from [vocab] logits, the first of equals, unless the model family forces one.

    Of a target of one token the end goes before the beginning, as in transformers.
    """
    if last and writing.forced_eos_id is not None:
        return writing.forced_eos_id
    if first and writing.forced_bos_id is not None:
        return writing.forced_bos_id
    if writing.banned_ids:
        logits = logits.copy()
        logits[list(writing.banned_ids)] = -np.inf
    return int(logits.argmax())
