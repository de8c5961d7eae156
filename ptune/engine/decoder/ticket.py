"""What somebody who has submitted a request holds: a way to give it up, and its tokens as they come."""

from __future__ import annotations

import queue
from collections.abc import Callable, Generator, Iterator

from ptune.engine.decoder.request import Token


class Ticket:
    """A submitted request."""

    def __init__(self, cancel: Callable[[], None]) -> None:
        self._cancel = cancel

    def cancel(self) -> None:
        """Ends the request before the next step, with a last token whose finish is "cancelled". May come too late."""
        self._cancel()


def drawn(tokens: queue.SimpleQueue[Token], ticket: Ticket) -> Generator[Token, None, None]:
    """A request's tokens; an iterator that is given up cancels it."""
    try:
        yield from until_finish(tokens)
    finally:
        ticket.cancel()


def until_finish(tokens: queue.SimpleQueue[Token]) -> Iterator[Token]:
    """Tokens up to the one that has a finish."""
    while True:
        token = tokens.get()
        yield token
        if token.finish is not None:
            return
