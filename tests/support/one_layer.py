"""One layer with states, traced by itself and run in onnxruntime, beside transformers' own module."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir
import onnxruntime
import torch
from torch import Tensor, nn

from ptune.export.decoder.attention import STEP
from ptune.export.decoder.sockets import StepInputs
from ptune.export.decoder.state_kinds import kind_of
from ptune.export.decoder.states import StateInputs, install_states
from ptune.export.decoder.trace import DYNAMIC, onnx_of
from ptune.formats.signature import STATE_INPUTS
from support.tiny_models import model

Array = npt.NDArray[np.float32]


class _Traced(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(
        self, hidden: Tensor, pad: Tensor, unpad: Tensor, new_tokens: Tensor, past: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        nothing = torch.zeros(0)
        step = StepInputs(nothing, {}, [], nothing, nothing, nothing, nothing, nothing)
        step.states = StateInputs(pad, unpad, new_tokens, past)
        setattr(self.layer, STEP, step)
        out = self.layer(hidden)
        return out, [state for _, state in sorted(step.states.present.items())]


@dataclass(frozen=True)
class OneLayer:
    """A layer of a family's tiny model."""

    module: Any  # transformers' own, not touched
    session: onnxruntime.InferenceSession
    shapes: tuple[tuple[int, ...], ...]  # of its states
    width: int

    def whole(self, text: Array) -> Array:
        """What transformers makes of [tokens, width]."""
        with torch.no_grad():
            found: Array = self.module(torch.tensor(text)[None])[0].numpy()
        return found

    def no_states(self, batch: int) -> list[Array]:
        return [np.zeros((batch, *shape), np.float32) for shape in self.shapes]

    def step(self, texts: Sequence[Array], states: Sequence[Array]) -> tuple[list[Array], list[Array]]:
        """New tokens of each sequence [n, width], which may be none, in a flat order of their own; and the states after them."""
        sizes = [len(text) for text in texts]
        order = sorted(range(len(texts)), key=lambda row: -sizes[row])  # not the batch's
        unused = int(len(texts) > 1 or not any(sizes))  # a cell without a token
        flat = np.concatenate(
            [np.full((unused, self.width), 7.0, np.float32), *(texts[row] for row in order)]
        )
        pad = np.zeros((len(texts), max(1, *sizes)), np.int64)
        unpad, cells, at = np.zeros(len(flat), np.int64), {}, unused
        for row in order:
            cells[row] = np.arange(at, at + sizes[row])
            pad[row] = at if sizes[row] else 0
            pad[row, : sizes[row]] = cells[row]
            unpad[cells[row]] = row * pad.shape[1] + np.arange(sizes[row])
            at += sizes[row]
        feeds = {"hidden": flat[None], **dict(zip(STATE_INPUTS, (pad, unpad, np.array(sizes)), strict=True))}
        feeds |= {f"past_state.{number}": state for number, state in enumerate(states)}
        out, *present = self.session.run(None, feeds)
        return [out[0][cells[row]] for row in range(len(texts))], present


def one_layer(folder: Path, family: str, **changes: Any) -> OneLayer:
    """The first layer with states of a family's tiny model."""
    models = [model(family, **changes) for _ in range(2)]
    mine, theirs = (next(part for part in one.modules() if kind_of(part) is not None) for one in models)
    states, width = install_states(mine, kind_of), int(models[0].config.hidden_size)
    traced, long = _Traced(mine).eval(), torch.int64
    past = [torch.zeros(3, *state.shape) for state in states]
    tokens = torch.zeros(2, 6, width)
    example = (
        tokens,
        torch.zeros(3, 4, dtype=long),
        torch.zeros(12, dtype=long),
        torch.zeros(3, dtype=long),
        past,
    )
    two, one = {0: DYNAMIC, 1: DYNAMIC}, {0: DYNAMIC}
    names = ["hidden", *STATE_INPUTS, *(f"past_state.{number}" for number in range(len(past)))]
    present = [f"present_state.{number}" for number in range(len(past))]
    graph = onnx_of(
        traced, example, (two, two, one, one, [one] * len(past)), names, ["out", *present], family, optimize=False,
        along=(0, 1),
    )  # fmt: skip
    onnx_ir.save(graph, folder / "layer.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(folder / "layer.onnx", options, providers=["CPUExecutionProvider"])
    return OneLayer(theirs, session, tuple(state.shape for state in states), width)
