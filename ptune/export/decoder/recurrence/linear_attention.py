"""onnxruntime's LinearAttention: the recurrence of gated delta rules, state spaces and selective scans alike.

    S[t] = exp(decay[t]) S[t - 1] + key[t] value[t]'                                              gated
    S[t] = exp(decay[t]) S[t - 1] + key[t] beta[t] (value[t] - exp(decay[t]) S[t - 1]' key[t])'   gated_delta
    y[t] = scale S[t]' query[t]

The operator takes one token after the other, each head of each sequence by itself. So a token's bits depend neither on the
others of the step nor on how its sequence is cut. It knows no lengths: cells behind a row's new tokens are zeros in all its
inputs, which leave the state as it is.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from ptune.export.decoder.recurrence.layer_states import LayerStates


def linear_attention(
    layer: LayerStates,
    rule: Literal["gated", "gated_delta"],
    query: Tensor,  # [groups, tokens, query heads, key dim]
    key: Tensor,  # [groups, tokens, key heads, key dim]
    value: Tensor,  # [groups, tokens, heads, value dim]
    decay: Tensor,  # [groups, tokens, heads], or [groups, tokens, heads, key dim]
    beta: Tensor | None = None,  # [groups, tokens, heads]
    scale: float = 1.0,
) -> Tensor:
    """Returns [groups, tokens, heads, value dim]. The state is [heads, key dim, value dim].

    Where there are fewer query and key heads than heads, as many heads in a row share one.
    """
    heads, value_dim = value.shape[2:]
    past, (batch, rows) = layer.take(), layer.step.pad_indices.shape
    inputs: list[Tensor | None] = [*(layer.rows_with_zeros(each) for each in (query, key, value)), past]
    inputs += [layer.rows_with_zeros(decay), None if beta is None else layer.rows_with_zeros(beta)]
    attributes: dict[str, Any] = {"update_rule": rule, "scale": scale}
    attributes |= {"q_num_heads": query.shape[2], "kv_num_heads": heads}
    out, present = torch.onnx.ops.symbolic_multi_out(
        "com.microsoft::LinearAttention",
        inputs,
        attributes,
        version=1,
        dtypes=[value.dtype] * 2,
        shapes=[[batch, rows, heads * value_dim], past.shape],
    )
    layer.present.append(present)
    return layer.flat(out, value)
