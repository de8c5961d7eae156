"""Attention sinks of packed examples: what gpt-oss's own attention gives each example alone, and its gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.models.gpt_oss.modeling_gpt_oss import eager_attention_forward

from ptune.training.rows.segments import NAME, PLAIN_NAME, segments

LENGTHS = (23, 1, 40)
HEADS, KEYS, DIM, SCALE = 6, 2, 16, 0.3


class Layer(nn.Module):
    """What the model's own attention reads of a layer."""

    num_key_value_groups = HEADS // KEYS

    def __init__(self, sinks: Tensor) -> None:
        super().__init__()
        self.sinks: Any = sinks


def states(value_dim: int) -> list[Tensor]:
    """query, key, value, sinks and the gradient of the output."""
    generator = torch.Generator().manual_seed(2)
    tokens = sum(LENGTHS)
    shapes = [(1, HEADS, tokens, DIM), (1, KEYS, tokens, DIM), (1, KEYS, tokens, value_dim), (HEADS,)]
    shapes.append((1, tokens, HEADS, value_dim))
    return [2 * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def of_the_model(inputs: Sequence[Tensor], window: int | None) -> Tensor:
    """Each example alone, through transformers' code."""
    *states, sinks = inputs
    found = []
    for q, k, v in zip(*(each.split(LENGTHS, 2) for each in states), strict=True):
        n = q.shape[2]
        seen = torch.ones(n, n, dtype=torch.bool).tril()
        seen = seen if window is None else seen.triu(1 - window)
        mask = torch.zeros(n, n, dtype=q.dtype).masked_fill(~seen, float("-inf"))
        found.append(eager_attention_forward(Layer(sinks), q, k, v, mask, scaling=SCALE)[0])
    return torch.cat(found, 1)


def packed(inputs: Sequence[Tensor], window: int | None, name: str) -> Tensor:
    query, key, value, sinks = inputs
    attend = AttentionInterface()[name]
    with segments(LENGTHS):
        found: Tensor = attend(
            Layer(sinks), query, key, value, None, scaling=SCALE, sliding_window=window, s_aux=sinks
        )[0]
    return found


@pytest.mark.parametrize("name", [NAME, PLAIN_NAME])
@pytest.mark.parametrize("value_dim", [DIM, 10])
@pytest.mark.parametrize("window", [None, 8, 40])
def test_output_and_gradients_are_the_models_own(window: int | None, value_dim: int, name: str) -> None:
    *inputs, gradient = states(value_dim)
    leaves = [each.requires_grad_() for each in inputs]
    expected, found = of_the_model(leaves, window), packed(leaves, window, name)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    wanted = torch.autograd.grad(expected, leaves, gradient)
    for one, other in zip(torch.autograd.grad(found, leaves, gradient), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)
    without = packed([*inputs[:3], inputs[3] - 50], window, name)
    assert (without - expected).abs().max() > 0.1, "sinks must take a share, or this test proves nothing"
