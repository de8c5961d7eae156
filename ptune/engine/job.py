"""A request on its way through an engine, whatever the engine's kind, and the errors that refuse or end it."""

from __future__ import annotations

import logging
from typing import Literal, Protocol, TypeVar

from ptune.errors import PtuneError, RequestError

Finish = Literal["stop", "length", "cancelled", "error"]
"""Why an answer ended."""

DEADLINE_EXCEEDED = "deadline_exceeded"
"""Error code of a job that expired before it had a result."""
BEFORE_COMPUTED = "it was computed"
"""What an encoder's job has not come to by its deadline."""

Served_co = TypeVar("Served_co", covariant=True)


class Job(Protocol[Served_co]):
    """One request. The engine's thread alone ends it."""

    deadline_s: float
    """When it expires, on the engine's clock; infinity for never."""
    expired: bool
    """Whether its deadline has passed."""

    @property
    def adapter(self) -> Served_co | None:
        """The adapter it holds: given back to the registry when the job leaves the engine. None for the base."""

    @property
    def ended(self) -> bool:
        """Whether it was cancelled or has expired, so that nothing more is computed for it."""

    def cancel(self) -> None:
        """Marks it as cancelled."""

    def give_up(self) -> None:
        """Ends a job that was cancelled or has expired. Called once, without the engine's lock."""

    def shut_down(self) -> None:
        """Ends a job because the engine closes. Called once, without the engine's lock."""

    def fail(self, error: PtuneError) -> None:
        """Ends it with an error, unless it has ended."""


def queue_full(waiting: int) -> RequestError:
    """Refusal of an engine whose queue is full."""
    return RequestError(f"{waiting} requests are waiting; try again later", code="queue_full", status=429)


def shutting_down() -> RequestError:
    """Refusal of an engine that drains or is closed."""
    return RequestError("the engine is shutting down", code="shutting_down", status=503)


def stopped() -> RequestError:
    """Refusal of an engine that a defect has ended."""
    return RequestError(
        "the engine has stopped, and its log says why: it has to be started again",
        code="engine_stopped",
        status=503,
    )


def deadline_passed(limit_s: float | None, before: str = "its first token") -> RequestError:
    """End of a job that expired before it had a result. limit_s: the request's own limit."""
    message = (
        f"the request's deadline of {limit_s:g} s passed before {before}; try again later, or allow more time"
    )
    return RequestError(message, code=DEADLINE_EXCEEDED, status=503)


def not_computed(error: Exception) -> PtuneError:
    """End of a job whose step failed; logs the failure with its traceback."""
    logging.getLogger(__name__).error("a step failed", exc_info=error)
    return PtuneError(f"the engine could not compute this: {error}")
