"""What a failed backward pass did not come to is freed at once, not at the next one, or as the process ends."""

from __future__ import annotations

import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ptune.training.loop import optimizer_step
from ptune.training.loss.next_token import NextTokenObjective
from ptune.training.memory.backward_pass import nothing_left_behind
from ptune.training.objective import Score
from ptune.training.rows.packing import Batch

from .test_loop import job


class Layer(nn.Module):
    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.tanh(hidden)


class Stopped(Layer):
    """Is interrupted as it is computed again, as by Ctrl-C."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if torch._C._current_graph_task_id() != -1:
            raise KeyboardInterrupt
        return super().forward(hidden)


def two_layers() -> tuple[torch.Tensor, weakref.ref[nn.Module]]:
    """The loss of two layers with one input, and the layer whose gradient is to come after that of the one that is stopped."""
    hidden, waiting = torch.ones(4, requires_grad=True), Layer()
    outputs = [checkpoint(layer, hidden, use_reentrant=False) for layer in (waiting, Stopped())]
    return torch.stack(outputs).sum(), weakref.ref(waiting)


def test_what_waited_is_freed() -> None:
    loss, waiting = two_layers()
    with pytest.raises(KeyboardInterrupt), nothing_left_behind():
        loss.backward()
    del loss
    assert waiting() is None


def test_the_loop_frees_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    score, watched = NextTokenObjective.score, list[weakref.ref[nn.Module]]()

    def scored(self: NextTokenObjective, model: nn.Module, batch: Batch) -> Score:
        found, (loss, waiting) = score(self, model, batch), two_layers()
        watched.append(waiting)
        return replace(found, loss=found.loss + loss)

    monkeypatch.setattr(NextTokenObjective, "score", scored)
    one = job(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        optimizer_step(one, one.examples[:6], 0, 3)
    (waiting,) = watched
    assert waiting() is None
