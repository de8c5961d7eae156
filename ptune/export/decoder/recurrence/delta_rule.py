"""Gated delta rules: Gated DeltaNet (https://arxiv.org/abs/2412.06464), with one decay for each head, as in Qwen3-Next,
and Kimi Delta Attention (https://arxiv.org/abs/2510.26692), with one for each number of a key."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ptune.export.decoder.recurrence.layer_states import LayerStates
from ptune.export.decoder.recurrence.linear_attention import linear_attention

EPSILON = 1e-6  # of norms, as in flash-linear-attention


def delta_rule(
    layer: LayerStates,
    query: Tensor,  # [groups, tokens, key heads, key dim]
    key: Tensor,
    value: Tensor,  # [groups, tokens, heads, value dim]
    g: Tensor,  # [groups, tokens, heads] or [groups, tokens, heads, key dim], logarithms
    beta: Tensor,  # [groups, tokens, heads]
    use_qk_l2norm_in_kernel: bool = False,
    **_: Any,
) -> tuple[Tensor, None]:
    """Returns [groups, tokens, heads, value dim], and no state: it is an output of the graph."""
    if use_qk_l2norm_in_kernel:
        query, key = _of_length_one(query), _of_length_one(key)
    scale = float(query.shape[-1] ** -0.5)
    return linear_attention(layer, "gated_delta", query, key, value, g, beta, scale), None


def _of_length_one(vectors: Tensor) -> Tensor:
    """x / sqrt(sum(x²) + eps), spelled as an RMSNorm, for which onnxruntime has one operator with one order of sums."""
    size = vectors.shape[-1]
    mean = vectors.pow(2).mean(-1, keepdim=True)
    return vectors * torch.rsqrt(mean + EPSILON / size) * torch.full((size,), size**-0.5)


def of_gated_delta_net(module: Any) -> tuple[int, ...]:
    """The shape of the state: [heads, key dim, value dim]."""
    return module.num_v_heads, module.head_k_dim, module.head_v_dim


def of_kimi_delta_attention(module: Any) -> tuple[int, ...]:
    """The shape of the state: [heads, key dim, value dim]."""
    return module.num_heads, module.head_dim, module.head_dim
