"""Ctrl-C and SIGTERM (sent by cluster schedulers): the first ends the loop after its step, the second at once."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from ptune.progress import say

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SAME_S = 1.0  # a launcher repeats the Ctrl-C that its processes have already received: not a second one


class StopSignal:
    """Within the `with` block, the first SIGINT or SIGTERM sets `requested`; the second has its usual effect.

    quiet: says nothing, since the process that trains will.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.requested = False
        self._quiet = quiet
        self._first_s = 0.0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():  # the only thread that may set handlers
            self._before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            if time.monotonic() - self._first_s > SAME_S:
                self._restore()
                signal.raise_signal(number)
            return
        self.requested, self._first_s = True, time.monotonic()
        if not self._quiet:
            say(
                "stopping after this step; Ctrl-C again stops at once and loses the steps since the last checkpoint"
            )

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
