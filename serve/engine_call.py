"""The bridge between the engine's thread and the event loop: all work of one HTTP call on an engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from concurrent.futures import Future
from typing import Any, TypeVar

from ptune.errors import PtuneError, RequestError

from .http.errors import engine_failed, shutting_down
from .service import Service

Output = TypeVar("Output")


class EngineCall(ABC):
    """Submits the work of one HTTP call, and cancels what has not finished when the response ends.

    first_token_s: when the first token arrived, by `time.perf_counter`; None before, and where nothing is generated.
    """

    first_token_s: float | None = None

    def __init__(self, service: Service) -> None:
        self._in_progress = service.running

    def start(self) -> None:
        """Submits everything, or nothing. Raises: RequestError, with status 429 if the queue is full."""
        self._in_progress.add(self)
        try:
            self._submit_all()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Cancels what has not finished. Only the first call has an effect."""
        if not self.closed:
            self._in_progress.remove(self)
            self._cancel_all()

    @property
    def closed(self) -> bool:
        """Whether the call was closed, or not started yet."""
        return self not in self._in_progress

    @property
    @abstractmethod
    def prompt_tokens(self) -> int:
        """Tokens that the model reads."""

    @property
    def generated_tokens(self) -> int:
        """Tokens generated so far."""
        return 0

    def usage(self) -> dict[str, Any]:
        """OpenAI's `usage`, as of now."""
        prompt, generated = self.prompt_tokens, self.generated_tokens
        return {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}

    @abstractmethod
    def _submit_all(self) -> None:
        """Submits the work to the engine. Raises: RequestError."""

    @abstractmethod
    def _cancel_all(self) -> None:
        """Cancels the submitted work that has not finished."""


class GenerationCall(EngineCall):
    """A call that generates tokens, and so has a limit of them."""

    @abstractmethod
    def max_tokens(self) -> int:
        """Most tokens that the call can use, prompts included."""


def result_of(future: Future[Output]) -> Output:
    """The result of a finished future. Raises: RequestError: the engine's own, or 503 if cancelled, 500 if it failed."""
    if future.cancelled():
        raise shutting_down()
    error = future.exception()
    if isinstance(error, RequestError):
        raise error
    if isinstance(error, PtuneError):
        raise engine_failed()
    return future.result()
