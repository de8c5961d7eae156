"""Callbacks of a training: told of each step, and free to end the run. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Wish = Literal["stop", "pause"]


class StopTraining(Exception):  # noqa: N818 - a wish, as StopIteration is, and not an error
    """Raised by a callback, it ends the run as `StepInfo.stop` does."""


@dataclass
class StepInfo:
    """One optimiser step, as a callback sees it. The step has been done; what it gave is not saved yet."""

    step: int  # counted from 1
    steps: int  # of the whole run
    loss: float  # mean over the targets of this step
    lr: float
    grad_norm: float  # before clipping
    metrics: Mapping[str, float]  # the step's line of metrics.jsonl: tokens_per_s, seconds and so on
    validation_loss: float | None = None  # where this step was followed by a validation
    wish: Wish | None = field(default=None, repr=False)  # what `stop` and `pause` leave here

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens trained on in a second; None where examples are counted instead (images)."""
        return self.metrics.get("tokens_per_s")

    def stop(self) -> None:
        """Ends the run after this step as early stopping does: validated, saved with its best weights, exportable."""
        self.wish = "stop"

    def pause(self) -> None:
        """Ends the run after this step as Ctrl-C does: `ptune.train(…, resume=True)` goes on to the same bytes."""
        self.wish = "pause"


Callback: TypeAlias = Callable[[StepInfo], Any]
"""Called after each step. What it returns is ignored, but for the word "stop"; other exceptions end the training."""


def call_all(
    callbacks: Sequence[Callback], step: int, steps: int, line: Mapping[str, float], validated: bool
) -> Wish | None:
    """Tells every callback of a step; what one of them wished, "stop" before "pause".

    line: the newest value of each metric; validated: whether a validation followed this very step.
    """
    if not callbacks:
        return None
    left = {"step"} | ({name for name in line if name.startswith("validation_")} if not validated else set())
    own = {name: value for name, value in line.items() if name not in left}
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
