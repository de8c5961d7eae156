"""The table of layers that keep states: transformers' class, the states of a module, and what it computes in a step."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ptune.export.attention import STEP
from ptune.export.sockets import StepInputs
from ptune.export.states import StateKind, short_convolution


def gated_convolution(module: Any, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
    """LFM2's short convolution between two gates (https://huggingface.co/LiquidAI/LFM2-1.2B): [groups, tokens, hidden]."""
    step: StepInputs = getattr(module, STEP)
    states = step.states_of(module)
    before, behind, x = module.in_proj(hidden_states).chunk(3, dim=-1)
    (past,) = states.take(module)
    rows, present = short_convolution(
        states.rows(before * x), past, states.new_tokens, module.conv.weight[:, 0], module.conv.bias
    )
    states.give(module, present)
    y: Tensor = module.out_proj(behind * states.flat(rows, hidden_states))
    return y


def _of_gated_convolution(module: Any) -> tuple[tuple[int, ...], ...]:
    return ((module.conv_kernel_size - 1, module.conv.in_channels),)


_GATED_CONVOLUTION = StateKind(_of_gated_convolution, gated_convolution)

KINDS: dict[str, StateKind] = {
    "Lfm2ShortConv": _GATED_CONVOLUTION,
    "Lfm2MoeShortConv": _GATED_CONVOLUTION,
}
