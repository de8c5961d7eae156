"""Causal attention of each example in a row on a CPU, with a gradient of our own.

The forward pass is PyTorch's flash kernel, to the bit. PyTorch's gradient of it takes a quarter more time than the one here, and
keeps the output twice: of each example, and of the row. Here some queries at a time are taken: they see no later keys, and sums
over queries are in float32.

Source: FlashAttention (Dao et al. 2022, https://arxiv.org/abs/2205.14135), appendix B.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_ROWS = 64  # queries of a head at a time: their probabilities stay in the cache
_LONGEST = 1024  # tokens of an example; beyond, PyTorch's gradient is as fast

_kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_kernel_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class SegmentAttention(torch.autograd.Function):
    """query [1, heads, tokens, dim], key and value [1, kv_heads, tokens, dim], lengths, scale -> [1, tokens, heads, dim]"""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int], scale: float
    ) -> Tensor:
        parts = zip(*_split(lengths, query, key, value), strict=True)
        attended, sums = zip(*(_kernel(*part, is_causal=True, scale=scale) for part in parts), strict=True)
        out = _joined(attended)
        ctx.save_for_backward(query, key, value, out, *sums)
        ctx.lengths, ctx.scale = lengths, scale
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, *sums = ctx.saved_tensors
        given = (gradients[0].transpose(1, 2), query, key, value, out.transpose(1, 2))
        parts = zip(*_split(ctx.lengths, *given), sums, strict=True)
        found = zip(*(_gradients(*part, scale=ctx.scale) for part in parts), strict=True)
        return *(_joined(part).transpose(1, 2) for part in found), None, None


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """[1, tokens, heads, dim], as layers read it; of parts [1, heads, n, dim]"""
    return torch.cat([part.transpose(1, 2) for part in parts], dim=1)


def _split(lengths: Sequence[int], *states: Tensor) -> list[tuple[Tensor, ...]]:
    return [tensor.split(list(lengths), 2) for tensor in states]


def _gradients(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    *,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of one example's query, key and value. logsumexp: [1, heads, tokens], of the scaled scores."""
    if query.shape[2] > _LONGEST:
        found: tuple[Tensor, Tensor, Tensor] = _kernel_backward(
            gradient, query, key, value, out, logsumexp, 0.0, True, scale=scale
        )
        return found
    gradient, query, key, value, out = (states[0] for states in (gradient, query, key, value, out))
    heads, n, dim = query.shape
    kv_heads, narrow, wide = len(key), query.dtype, logsumexp.dtype

    def grouped(states: Tensor, first: int) -> Tensor:
        """Of a block of queries: those that share a key stand below each other, [kv_heads, rows, …]."""
        return states[:, first : first + _ROWS].reshape(kv_heads, -1, states.shape[-1])

    less = -logsumexp[0, :, :, None]
    given = gradient.to(wide) * scale
    drop = -(given * out.to(wide)).sum(-1, keepdim=True)
    scaled = query.to(wide) * scale
    keys, values = (states.to(wide).transpose(1, 2) for states in (key, value))
    of_query = torch.empty_like(query)
    of_key, of_value = (torch.zeros(kv_heads, n, dim, dtype=wide) for _ in range(2))
    for first in range(0, n, _ROWS):
        seen = min(first + _ROWS, n)
        p = torch.baddbmm(grouped(less, first), grouped(scaled, first), keys[:, :, :seen]).exp_()
        p.view(kv_heads, -1, seen - first, seen)[..., first:].tril_()  # a query sees no later key
        of_value[:, :seen] += torch.bmm(p.to(narrow).transpose(1, 2), grouped(gradient, first))
        s = torch.baddbmm(grouped(drop, first), grouped(given, first), values[:, :, :seen])
        s = s.mul_(p).to(narrow)
        of_query[:, first:seen] = torch.bmm(s, key[:, :seen]).view(heads, -1, dim)
        of_key[:, :seen] += torch.bmm(s.transpose(1, 2), grouped(query, first))
    return of_query[None], of_key[None], of_value[None]
