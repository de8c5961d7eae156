"""State spaces with one decay for each head: Mamba 2 (https://arxiv.org/abs/2405.21060), as mamba-ssm's
`mamba_chunk_scan_combined`, in Granite 4, Falcon-H1, Nemotron-H, Bamba and Zamba 2.

S[t] = exp(dt[t] A) S[t - 1] + B[t] (dt[t] x[t])',  y[t] = S[t]' C[t] + D x[t]
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ptune.export.decoder.recurrence.layer_states import LayerStates
from ptune.export.decoder.recurrence.linear_attention import linear_attention


def state_space(
    layer: LayerStates,
    x: Tensor,  # [groups, tokens, heads, dim]
    dt: Tensor,  # [groups, tokens, heads]
    a: Tensor,  # [heads]
    b: Tensor,  # [groups, tokens, groups of heads, state]
    c: Tensor,
    D: Tensor | None = None,  # [heads]  # noqa: N803, which callers name
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, math.inf),
    **_: Any,
) -> Tensor:
    """Returns [groups, tokens, heads, dim]. The state is [heads, state, dim], the transpose of mamba-ssm's."""
    dt = dt if dt_bias is None else dt + dt_bias
    dt = torch.nn.functional.softplus(dt) if dt_softplus else dt
    least, most = dt_limit
    dt = torch.clamp(dt, least, None if math.isinf(most) else most)
    out = linear_attention(layer, "gated", c, b, x * dt[..., None], dt * a)
    out = out if D is None else out + x * D[:, None]
    return out if z is None else out * torch.nn.functional.silu(z)


def of_mamba2(module: Any) -> tuple[int, ...]:
    """The shape of the state: [heads, state, dim]."""
    return module.num_heads, module.ssm_state_size, module.head_dim
