"""Detects and explains a training that goes wrong: infinite or NaN values, exploding gradients, a dead adapter.

The limits on finite values are wide on purpose: a false alarm costs a night, a late one a few steps. Training stops for

- A gradient norm of 100 times the median of the last 50, for five steps running. Single spikes are normal (one odd batch)
  and are clipped; the norms of a healthy run stay within about a factor of ten, even while LoRA's B grows from zero.
  Outliers do not enter the median.
- A loss above 1.5 times that of the first step plus one nat, and above five nats, for twenty steps running. (Only the
  first step is measured before training: a rate that is far too high already ruins the second. A ruined model predicts
  about as well as word frequencies: seven nats. Batches are shuffled, so twenty bad ones in a row do not happen by chance;
  the five nats allow for a first batch that was easy by chance.)
- A gradient of exactly zero in the first three steps, or in twenty later ones (as in a ruined model) while the loss is
  still high enough to learn.
- A loss of one batch that is unchanged to the last bit at the end of the warm-up (at least ten steps).
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ptune.errors import PtuneError
from ptune.training.distributed import own_part
from ptune.training.objective import Objective

_NORM_FACTOR, _NORM_HISTORY, _NORM_STEPS = 100.0, 50, 5
_LOSS_FACTOR, _LOSS_FLOOR, _LOSS_STEPS = 1.5, 5.0, 20
_SILENT_STEPS, _SILENT_LATER, _LEARNT, _ALIVE_STEPS = 3, 20, 0.1, 10
_SHOWN = 5


class NotANumberError(PtuneError):
    """The loss or the gradient of a step is infinite or NaN. The weights are still those before the step."""

    def __init__(self, name: str, value: float, step: int) -> None:
        super().__init__(f"training diverged: the {name} of step {step} is {value}")


class Watch:
    """Checks the loss and gradient norm of every step."""

    def __init__(self) -> None:
        self._norms: deque[float] = deque(maxlen=_NORM_HISTORY)
        self._losses: deque[float] = deque(maxlen=_LOSS_STEPS)
        self._first: float | None = None
        self._high = self._silent = 0  # steps in a row with a high norm, and without a gradient
        self._steps = 0

    @classmethod
    def of(cls, entries: Iterable[Mapping[str, Any]]) -> Watch:
        """A watch that has seen these lines of metrics.jsonl."""
        watch = cls()
        for entry in entries:
            if "loss" in entry:
                watch.see(entry["loss"], entry["grad_norm"])
        return watch

    def see(self, loss: float, norm: float) -> str | None:
        """Records one more step. Returns a description of what is wrong, or None."""
        self._steps += 1
        self._silent = self._silent + 1 if norm == 0 else 0
        usual = statistics.median(self._norms) if len(self._norms) >= 10 else math.inf
        high = norm > _NORM_FACTOR * usual > 0
        self._high = self._high + 1 if high else 0
        if not high:
            self._norms.append(norm)
        self._first = loss if self._first is None else self._first
        self._losses.append(loss)
        limit = max(_LOSS_FACTOR * self._first + 1, _LOSS_FLOOR)
        if self._silent == self._steps == _SILENT_STEPS or (self._silent >= _SILENT_LATER and loss > _LEARNT):
            return (
                f"dead: no gradient has reached any trained weight in {self._silent} steps. Check method.target_modules "
                "(do these layers take part in the forward pass?); if it learnt before, lower train.lr"
            )
        if self._high >= _NORM_STEPS:
            return (
                f"exploding: the gradient norm is {norm:.3g}, over {_NORM_FACTOR:g} times its median {usual:.3g} for "
                f"{self._high} steps. Lower train.lr, lengthen train.warmup, or set train.max_grad_norm (clips)"
            )
        if len(self._losses) == _LOSS_STEPS and min(self._losses) > limit:
            return (
                f"diverging: the loss has been above {limit:.3g} for {_LOSS_STEPS} steps (now {loss:.3g}); it began at "
                f"{self._first:.3g}. Lower train.lr or lengthen train.warmup"
            )
        return None


@dataclass(frozen=True)
class Alive:
    """A check that training changes the model's predictions. measure: a loss that depends only on the weights."""

    measure: Callable[[], float]
    before: float
    step: int  # the step after which to check

    @classmethod
    def from_now(cls, measure: Callable[[], float], steps: int, warmup_steps: int) -> Alive:
        """Measures the loss before training; the check is due after the warm-up."""
        return cls(measure, measure(), min(steps, max(_ALIVE_STEPS, warmup_steps + 1)))

    def trouble(self, step: int) -> str | None:
        """A description of what is wrong after `step` steps, or None."""
        if step != self.step or step < _SILENT_STEPS or self.measure() != self.before:
            return None
        return (
            f"dead: after {step} steps the model's loss on the first batch is still {self.before:.9g}, to the last bit. "
            "The updates are too small to change anything: raise train.lr, or check method.alpha and backbone.dtype"
        )


def explained(
    error: NotANumberError,
    model: nn.Module,
    objective: Objective,
    examples: Sequence[Any],
    indices: Sequence[int],
    lr: float,
    how_to_go_on: str,
    split: str = "training",
) -> PtuneError:
    """The error with a diagnosis: weights, examples, layer, gradients. `how_to_go_on` is the last line.

    Every process runs every example once more, alone and forward only, so that all processes report the same.
    """
    weights = not_finite(model.named_parameters())
    gradients = not_finite(
        (name, parameter.grad) for name, parameter in model.named_parameters() if parameter.grad is not None
    )
    bad = [
        (index, layer)
        for index, example in zip(indices, examples, strict=True)
        if (layer := _first_bad_layer(model, objective, example)) is not None
    ]
    lines = [str(error)]
    if weights:
        lines.append(f"weights that are not finite: {_some(weights)}")
    if bad:
        which = (
            "every example" if len(bad) == len(examples) else f"{split} examples {_some([i for i, _ in bad])}"
        )
        lines.append(
            f"first value that is not finite: {bad[0][1]}, in {which} of those {len(examples)} (counted from 0)"
        )
    elif not weights:
        lines.append("each example alone has a finite loss")
        if gradients:
            lines.append(
                f"gradients that are not finite: {len(gradients)}, the last of them in {gradients[-1]}"
            )
    lines.append(f"learning rate {lr:.3g}, largest trained weight {_largest(model):.3g}")
    lines.append(f"what to do: {_advice(bool(weights), len(bad), len(examples), model)}")
    return PtuneError("\n  ".join([*lines, how_to_go_on]))


def not_finite(tensors: Iterable[tuple[str, torch.Tensor]]) -> list[str]:
    """Names of the tensors with an infinite or NaN value in this process's part."""
    return [
        name
        for name, tensor in tensors
        if tensor.is_floating_point() and not bool(own_part(tensor.detach()).isfinite().all())
    ]


def _advice(weights: bool, bad: int, examples: int, model: nn.Module) -> str:
    if weights:
        return "the weights were damaged before this step: check that the backbone is intact, else lower train.lr"
    if 0 < bad < examples:
        return "look at these examples; if nothing is odd about them, lower train.lr"
    types = {parameter.dtype for parameter in model.parameters()}
    wider = ", or compute in float32 (backbone.dtype)" if types & {torch.bfloat16, torch.float16} else ""
    return f"lower train.lr, or lengthen train.warmup{wider}"


@torch.no_grad()
def _first_bad_layer(model: nn.Module, objective: Objective, example: Any) -> str | None:
    """The first module with a non-finite output for one example; a module finishes after its submodules."""
    bad: list[str] = []

    def check(name: str, inputs: Any, output: Any) -> None:
        if not bad and _bad(output):
            bad.append(name + (", whose input was finite" if not _bad(inputs) else ""))

    handles = [
        module.register_forward_hook(lambda _module, inputs, output, name=name: check(name, inputs, output))
        for name, module in model.named_modules()
    ]
    try:
        for batch in objective.batches([example]):
            score = objective.score(model, batch)
            if not bad and not math.isfinite(float(score.loss)):
                bad.append("the loss itself")
    finally:
        for handle in handles:
            handle.remove()
    return bad[0] if bad else None


def _bad(value: Any) -> bool:
    """Whether any tensor in a module's inputs or outputs is not finite."""
    if isinstance(value, torch.Tensor):
        return value.is_floating_point() and not bool(value.isfinite().all())
    if isinstance(value, dict):
        return any(_bad(part) for part in value.values())
    return isinstance(value, list | tuple) and any(_bad(part) for part in value)


def _largest(model: nn.Module) -> float:
    parts = [own_part(p.detach()) for p in model.parameters() if p.requires_grad]
    return max((float(part.abs().max()) for part in parts if part.numel()), default=0.0)


def _some(names: Sequence[object]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(str, names[:_SHOWN])) + more
