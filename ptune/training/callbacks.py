"""Callbacks: called after each training step; they may end the run. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Wish = Literal["stop", "pause"]


class StopTraining(Exception):  # noqa: N818 - a request, like StopIteration, not an error
    """Raised by a callback to end the run, as `StepInfo.stop` does."""


@dataclass
class StepInfo:
    """One finished optimiser step, whose result is not saved yet."""

    step: int  # counted from 1
    steps: int  # number of steps in the run
    loss: float  # mean over the targets of this step
    lr: float
    grad_norm: float  # before clipping
    metrics: Mapping[str, float]  # the step's line of metrics.jsonl: tokens_per_s, seconds and so on
    validation_loss: float | None = None  # if a validation followed this step
    wish: Wish | None = field(default=None, repr=False)  # set by `stop` and `pause`

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens trained on per second; None for tasks that count examples (images)."""
        return self.metrics.get("tokens_per_s")

    def stop(self) -> None:
        """Ends the run after this step, like early stopping: the run is validated, saved with its best weights, exportable."""
        self.wish = "stop"

    def pause(self) -> None:
        """Ends the run after this step, like Ctrl-C: `ptune.train(…, resume=True)` continues to the same bytes."""
        self.wish = "pause"


Callback: TypeAlias = Callable[[StepInfo], Any]
"""Called after each step. Its result is ignored unless it is "stop"; exceptions other than StopTraining end the training."""


def call_all(
    callbacks: Sequence[Callback], step: int, steps: int, line: Mapping[str, float], validated: bool
) -> Wish | None:
    """Calls every callback; returns "stop" if one asked for it, else "pause" if one did, else None.

    line: the newest value of each metric; validated: whether a validation followed this step.
    """
    if not callbacks:
        return None
    stale = {"step"} | ({name for name in line if name.startswith("validation_")} if not validated else set())
    own = {name: value for name, value in line.items() if name not in stale}
    wishes: set[Wish] = set()
    for callback in callbacks:
        info = StepInfo(
            step, steps, own["loss"], own["lr"], own["grad_norm"], own, own.get("validation_loss")
        )
        try:
            if callback(info) == "stop":
                info.stop()
        except StopTraining:
            info.stop()
        if info.wish is not None:
            wishes.add(info.wish)
    return "stop" if "stop" in wishes else "pause" if wishes else None
