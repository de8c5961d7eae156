"""Gated MLPs, y = down(act(gate(x)) * up(x)), that keep half of the activations for the gradient.

PyTorch keeps four tensors as wide as the MLP: gate, up, act(gate) and their product, which is most of what a layer keeps. Here
the first two are kept. The others are computed again in the backward pass by the same operations, so no bit changes.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType, SimpleNamespace
from typing import Any, cast

import torch
from torch import nn
from transformers.activations import LinearActivation

from ptune.training.layers.lora_product import gradients_of, plain_update, product


def with_gated_products(model: nn.Module) -> nn.Module:
    """Has the model's gated MLPs keep less, in place, where `down` has a plain LoRA update. Returns `model`."""
    for mlp in model.modules():
        if _gated(mlp):
            mlp.forward = MethodType(_forward, mlp)
    return model


def _gated(mlp: nn.Module) -> bool:
    """Whether a module has such a `forward`; tried with numbers in place of tensors and its layers."""
    if not all(hasattr(mlp, name) for name in ("gate_proj", "up_proj", "down_proj", "act_fn")):
        return False
    if isinstance(mlp.act_fn, nn.Identity | LinearActivation):
        return False  # its result is the gate itself, and is overwritten
    layers = {
        "gate_proj": (3.0).__mul__,
        "up_proj": (5.0).__mul__,
        "down_proj": (7.0).__mul__,
        "act_fn": (11.0).__add__,
    }
    try:
        return bool(type(mlp).forward(cast(Any, SimpleNamespace(**layers)), 2.0) == 7.0 * (11.0 + 6.0) * 10.0)
    except Exception:  # it does something else, which numbers do not have
        return False


def _forward(mlp: Any, x: torch.Tensor) -> torch.Tensor:
    """In place of a gated MLP's `forward`."""
    down = mlp.down_proj
    adapter = plain_update(down)
    if adapter is None:
        return cast(torch.Tensor, type(mlp).forward(mlp, x))
    a, b = down.lora_A[adapter].weight, down.lora_B[adapter].weight
    gate, up, scale = mlp.gate_proj(x), mlp.up_proj(x), down.scaling[adapter]
    return cast(torch.Tensor, GatedProduct.apply(gate, up, mlp.act_fn, a, b, scale, down.base_layer))


class GatedProduct(torch.autograd.Function):
    """gate and up [..., width], act, A [r, width], B [out, r], scale, the frozen base layer -> [..., out]"""

    @staticmethod
    def forward(
        ctx: Any,
        gate: torch.Tensor,
        up: torch.Tensor,
        act: Callable[[torch.Tensor], torch.Tensor],
        a: torch.Tensor,
        b: torch.Tensor,
        scale: float,
        base: nn.Module,
    ) -> torch.Tensor:
        out, factors = product(act(gate).mul_(up), a, b, scale, base)
        ctx.save_for_backward(gate, up, *factors)
        ctx.act, ctx.scale, ctx.base, ctx.dtype = act, scale, base, a.dtype
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gate, up, *factors = ctx.saved_tensors
        with torch.enable_grad():
            leaf = gate.detach().requires_grad_()
            opened = ctx.act(leaf)
        active = opened.detach()
        x = active * up
        of_x, of_a, of_b = gradients_of(ctx, gradients[0], x, factors, of_x=True)
        assert of_x is not None
        (of_gate,) = torch.autograd.grad(opened, leaf, torch.mul(of_x, up, out=x))
        return of_gate, of_x.mul_(active), None, of_a, of_b, None, None
