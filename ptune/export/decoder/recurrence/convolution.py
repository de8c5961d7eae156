"""Causal convolutions over the tokens of a sequence, each channel by itself: causal-conv1d's `causal_conv1d_fn`."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.activations import ACT2FN

from ptune.export.decoder.recurrence.layer_states import LayerStates
from ptune.export.decoder.states import short_convolution


def causal_convolution(
    layer: LayerStates,
    hidden_states: Tensor,  # [groups, channels, tokens]
    weight: Tensor,  # [channels, K]
    bias: Tensor | None = None,
    activation: str | None = None,
    **_: Any,
) -> Tensor:
    """Returns [groups, channels, tokens]."""
    flat = hidden_states.transpose(1, 2)
    out, present = short_convolution(layer.rows(flat), layer.take(), layer.step.new_tokens, weight, bias)
    layer.present.append(present)
    return layer.flat(out if activation is None else ACT2FN[activation](out), flat).transpose(1, 2)


def last_inputs(module: nn.Module) -> tuple[int, ...]:
    """The shape of the state: as many inputs as the convolution reads beside a token's own, [K - 1, channels]."""
    convolution = next(child for child in module.children() if isinstance(child, nn.Conv1d))
    return convolution.kernel_size[0] - 1, convolution.in_channels
