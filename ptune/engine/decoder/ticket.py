"""Handles of a submitted request: one to cancel it, one to iterate over its tokens."""

from __future__ import annotations

import queue
from collections.abc import Callable, Generator, Iterator

from ptune.engine.decoder.request import NO_TOKEN, Token


class Ticket:
    """A submitted request."""

    def __init__(self, cancel: Callable[[], None], reused: Callable[[], int]) -> None:
        self._cancel, self._reused = cancel, reused

    @property
    def reused(self) -> int:
        """Tokens of the prompt that were found in the cache, as of now: none before its first step."""
        return self._reused()

    def cancel(self) -> None:
        """Ends the request before the next step, with a last token whose finish is "cancelled". May be too late."""
        self._cancel()


def drawn(tokens: queue.SimpleQueue[Token], ticket: Ticket) -> Generator[Token, None, None]:
    """Yields a request's tokens; closing the iterator cancels the request, also one of which no token was taken."""

    def begun() -> Generator[Token, None, None]:
        try:
            yield Token(NO_TOKEN)
            yield from until_finish(tokens)
        finally:
            ticket.cancel()

    stream = begun()
    next(stream)  # Python ends a generator that has not begun without its `finally`
    return stream


def until_finish(tokens: queue.SimpleQueue[Token]) -> Iterator[Token]:
    """Yields tokens up to the one that has a finish."""
    while True:
        token = tokens.get()
        yield token
        if token.finish is not None:
            return
