"""Whether the engine works: for /health, and for a watchdog that logs it, so that an orchestrator can restart the server."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ptune.errors import RequestError

if TYPE_CHECKING:
    from ptune.engine.metrics import EngineMetrics

_log = logging.getLogger("ptune.serve")


class Health:
    """The health of an engine. step_limit_s: a step that takes longer is stuck."""

    def __init__(self, metrics: EngineMetrics, step_limit_s: float) -> None:
        self._metrics = metrics
        self._step_limit_s = step_limit_s

    def problem(self) -> str | None:
        """What is wrong, in one sentence; None if the engine is healthy."""
        if self._metrics.stopped is not None:
            return f"{self._metrics.stopped}, and answers nothing more; the server's log says where"
        running_s = self._metrics.running_s
        if running_s > self._step_limit_s:
            return f"a step of the engine has run for {running_s:.0f} s, over the limit of {self._step_limit_s:g} s"
        if self._metrics.broken:
            return "the engine's last steps have all failed"
        return None

    def check(self) -> None:
        """Raises: RequestError(503) if the engine is unhealthy."""
        problem = self.problem()
        if problem is not None:
            raise RequestError(f"unhealthy: {problem}", code="unhealthy", status=503)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Logs when the engine becomes unhealthy, and when it is healthy again."""
        ended = threading.Event()
        watchdog = threading.Thread(target=self._watch, args=(ended,), name="ptune-watchdog", daemon=True)
        watchdog.start()
        try:
            yield
        finally:
            ended.set()
            watchdog.join()

    def _watch(self, ended: threading.Event) -> None:
        unhealthy = False
        while not ended.wait(min(self._step_limit_s / 4, 5)):
            problem = self.problem()
            if problem is not None and not unhealthy:
                _log.error(
                    "unhealthy: %s; /health answers 503 until that is over: restart this server", problem
                )
            elif problem is None and unhealthy:
                _log.warning("healthy again: the engine's steps finish")
            unhealthy = problem is not None
