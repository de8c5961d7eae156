"""Attention of packed examples on a CPU: PyTorch's own output, bit by bit, and its gradient, at least as near to the exact one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ptune.training.rows.segment_attention import SegmentAttention

SCALE = 0.2


def states(lengths: tuple[int, ...], heads: int, kv_heads: int, dtype: torch.dtype) -> list[Tensor]:
    """query, key, value as layers make them, [1, heads, tokens, dim], and the gradient of their attention."""
    generator = torch.Generator().manual_seed(4)

    def random(heads: int) -> Tensor:
        return torch.randn(1, sum(lengths), heads, 16, generator=generator).to(dtype)

    query, key, value = ((2 * random(number)).transpose(1, 2) for number in (heads, kv_heads, kv_heads))
    return [query, key, value, random(heads)]


def of_pytorch(lengths: tuple[int, ...], query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    parts = zip(*(tensor.split(list(lengths), 2) for tensor in (query, key, value)), strict=True)
    attended = [
        F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=SCALE, enable_gqa=True)
        for q, k, v in parts
    ]
    return torch.cat(attended, 2).transpose(1, 2)


def of_ours(lengths: tuple[int, ...], query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    out: Tensor = SegmentAttention.apply(query, key, value, list(lengths), SCALE)
    return out


def gradients(
    attention: Callable[..., Tensor],
    lengths: tuple[int, ...],
    inputs: Sequence[Tensor],
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, ...]:
    leaves = [tensor.detach().to(dtype or tensor.dtype).requires_grad_() for tensor in inputs[:3]]
    out = attention(lengths, *leaves)
    return torch.autograd.grad(out, leaves, inputs[3].to(out.dtype))


def distance(one: Tensor, other: Tensor) -> float:
    return float((one.double() - other.double()).norm() / other.double().norm())


@pytest.mark.parametrize("heads", [(4, 4), (6, 2), (4, 1)])
@pytest.mark.parametrize("lengths", [(64,), (63, 1, 65, 200), (1030, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_output_and_gradients(lengths: tuple[int, ...], heads: tuple[int, int], dtype: torch.dtype) -> None:
    inputs = states(lengths, *heads, dtype)
    assert torch.equal(of_ours(lengths, *inputs[:3]), of_pytorch(lengths, *inputs[:3]))
    exact = gradients(of_pytorch, lengths, inputs, torch.float64)
    for here, there, of_kernel in zip(
        gradients(of_ours, lengths, inputs), exact, gradients(of_pytorch, lengths, inputs), strict=True
    ):
        assert here.dtype == dtype
        assert distance(here, there) <= 1.25 * distance(of_kernel, there)


def test_an_example_has_the_gradients_it_has_alone() -> None:
    inputs = states((70, 30), 4, 2, torch.float32)
    together = gradients(of_ours, (70, 30), inputs)
    first = [tensor[:, :, :70] for tensor in inputs[:3]] + [inputs[3][:, :70]]
    for both, alone in zip(together, gradients(of_ours, (70,), first), strict=True):
        assert torch.equal(both[:, :, :70], alone)
