"""Passes of a model in lockstep: a weight that is made when its layer runs (`ptune.backbone.float32`) is made once for all.

Each pass has a thread, and one of them runs at a time: until it needs a weight that is not there. When all need others than the
one that is there, the weight of the first of them takes its place. So each pass computes what it would alone, bit for bit, in any
model, and memory holds one such weight.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from torch import Tensor

Found = TypeVar("Found")


class _StoppedError(Exception):
    """Another pass has failed, or the user has interrupted them."""


class _Turns:
    """Whose turn it is, and the weight that is there."""

    def __init__(self, passes: int) -> None:
        self._changed = threading.Condition()
        self._wanted: dict[int, object] = dict.fromkeys(
            range(passes)
        )  # by waiting pass: a layer; None: to begin
        self._layer: object = None
        self._weight: Tensor | None = None  # of that layer
        self._turn = 0
        self._stopped = False

    def run(self, number: int, work: Callable[[], Found]) -> Found:
        """Does the work of a pass in its turns. Raises: what `work` raises; _StoppedError."""
        _here.place = self, number
        try:
            self._wait(number)
            return work()
        except BaseException:
            self.stop()
            raise
        finally:
            self._go_on(number)

    def weight(self, number: int, layer: object, make: Callable[[], Tensor]) -> Tensor:
        """The weight of a layer, for the pass whose turn it is."""
        if layer is not self._layer:
            self._wanted[number] = layer
            self._go_on()
            self._wait(number)
        if self._weight is None:
            self._weight = make()
        return self._weight

    def stop(self) -> None:
        """Ends every pass at its next turn."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _wait(self, number: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._turn == number)
            if self._stopped:
                raise _StoppedError
            del self._wanted[number]

    def _go_on(self, ended: int | None = None) -> None:
        """Gives the turn to the first pass that can go on."""
        with self._changed:
            self._wanted.pop(-1 if ended is None else ended, None)
            ready = [number for number, layer in self._wanted.items() if layer in (None, self._layer)]
            if not ready and self._wanted:
                ready = [min(self._wanted)]
                self._layer, self._weight = self._wanted[ready[0]], None
            if ready:
                self._turn = min(ready)
            self._changed.notify_all()


class _Here(threading.local):
    """The pass of this thread, if it is one."""

    place: tuple[_Turns, int] | None = None


_here = _Here()


def shared(layer: object, make: Callable[[], Tensor]) -> Tensor:
    """The weight of a layer: made now, or in lockstep once for all passes. None may write to it."""
    if _here.place is None:
        return make()
    turns, number = _here.place
    return turns.weight(number, layer, make)


def in_lockstep(passes: Sequence[Callable[[], Found]]) -> list[Found]:
    """Computes passes in lockstep; their results in order. Each sets its own torch.no_grad(), which belongs to a thread.

    Raises: what one of them raises.
    """
    if len(passes) < 2:
        return [one() for one in passes]
    turns = _Turns(len(passes))
    with ThreadPoolExecutor(len(passes), "ptune-lockstep") as pool:
        found = [pool.submit(partial(turns.run, number, one)) for number, one in enumerate(passes)]
        try:
            errors = [error for error in (one.exception() for one in found) if error is not None]
        except BaseException:  # an interrupt
            turns.stop()
            raise
    own = [error for error in errors if not isinstance(error, _StoppedError)]
    if own:
        raise own[0]
    return [one.result() for one in found]
