"""State spaces with a decay for each number of the state: Mamba (https://arxiv.org/abs/2312.00752), as mamba-ssm's
`selective_scan_fn`, in Mamba, Falcon-Mamba and Jamba.

S[t] = exp(dt[t] A) S[t - 1] + B[t] dt[t] x[t],  y[t] = (S[t]' C[t] + D x[t]) silu(z[t]),  for each channel of x by itself
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ptune.export.decoder.recurrence.layer_states import LayerStates
from ptune.export.decoder.recurrence.linear_attention import linear_attention


def selective_scan(
    layer: LayerStates,
    x: Tensor,  # [groups, channels, tokens]
    dt: Tensor,  # [groups, channels, tokens]
    a: Tensor,  # [channels, state]
    b: Tensor,  # [groups, state, tokens]
    c: Tensor,
    D: Tensor | None = None,  # [channels]  # noqa: N803, which callers name
    z: Tensor | None = None,  # [groups, channels, tokens]
    delta_bias: Tensor | None = None,  # [channels]
    delta_softplus: bool = False,
    **_: Any,
) -> Tensor:
    """Returns [groups, channels, tokens]. The state is [channels, state, 1]: a channel is a head."""
    x, dt, b, c = (each.transpose(1, 2) for each in (x, dt, b, c))
    dt = dt if delta_bias is None else dt + delta_bias
    dt = torch.nn.functional.softplus(dt) if delta_softplus else dt
    decay, value = dt[..., None] * a, (dt * x)[..., None]
    out = linear_attention(layer, "gated", c[:, :, None], b[:, :, None], value, decay)[..., 0]
    out = out if D is None else out + x * D
    out = out.transpose(1, 2)
    return out if z is None else out * torch.nn.functional.silu(z)


def of_mamba(module: Any) -> tuple[int, ...]:
    """The shape of the state: [channels, state, 1]."""
    return *module.A_log.shape, 1
