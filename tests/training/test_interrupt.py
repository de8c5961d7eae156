"""The first signal asks, a launcher's echo of it is not a second one, and the second acts as it always does."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from ptune.training import interrupt
from ptune.training.interrupt import StopSignal


@pytest.fixture(autouse=True)
def _python_handles_ctrl_c() -> Iterator[None]:
    """A process that a shell started in the background ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_once_asks_and_an_echo_changes_nothing(number: signal.Signals) -> None:
    with StopSignal() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), signal.SIGTERM)  # what torchrun does when it gets a Ctrl-C itself
        assert stop.requested
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_twice_acts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock_s = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock_s[0])
    with StopSignal():
        os.kill(os.getpid(), signal.SIGINT)
        clock_s[0] = 2 * interrupt.SAME_S
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
