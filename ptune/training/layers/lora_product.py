"""A linear layer with its LoRA update as one operation: y = x W^T + b + scale (x A^T) B^T.

peft computes the update in the adapter's float32, whatever the base's type, and keeps float32 copies of x for the gradient.
Here the factors are float32 as well, but products are in the base's type, x is kept once for all layers that read it, and no
operation passes over the output a second time. The gradients of A and B are float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MethodType
from typing import Any, cast

import torch
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora.bnb import Linear4bit, Linear8bitLt
from torch import nn

from ptune.backbone.packed.linear import PackedLinear
from ptune.backbone.quantize import Int8Linear, Nf4Linear
from ptune.training.layers.float_products import by_one_dnn, linear, times

_KINDS = (LoraLinear, Linear4bit, Linear8bitLt)
_PACKED = (Nf4Linear, Int8Linear, PackedLinear)
_BASES = (nn.Linear, *_PACKED)


def with_lora_products(model: nn.Module) -> nn.Module:
    """Has the model's LoRA layers compute base and update together, in place; other layers stay peft's. Returns `model`."""
    for layer in model.modules():
        if _ours(layer):
            layer.forward = MethodType(_forward, layer)
    return model


def _ours(layer: nn.Module) -> bool:
    return type(layer) in _KINDS and type(layer.base_layer) in _BASES


def _forward(layer: Any, x: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
    """In place of a LoRA layer's `forward`. What is no plain update by one adapter is computed by peft."""
    adapter = None if rest or named else plain_update(layer)
    if adapter is None:
        return cast(torch.Tensor, type(layer).forward(layer, x, *rest, **named))
    a, b = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
    return cast(torch.Tensor, LoraProduct.apply(x, a, b, layer.scaling[adapter], layer.base_layer))


def plain_update(layer: Any) -> str | None:
    """The only active adapter of a LoRA layer whose base is frozen, if its update is scale (x A^T) B^T and nothing else.

    None for any other layer.
    """
    if not _ours(layer):
        return None
    active = [name for name in layer.active_adapters if name in layer.lora_A]
    if len(active) != 1 or layer.disable_adapters or layer.merged or _trained(layer.base_layer):
        return None
    (adapter,) = active
    drops = layer.training and not isinstance(layer.lora_dropout[adapter], nn.Identity)
    other = adapter in layer.lora_variant or layer.lora_B[adapter].bias is not None
    return None if drops or other else adapter


class LoraProduct(torch.autograd.Function):
    """x [..., in], A [r, in], B [out, r], scale, the frozen base layer -> [..., out]"""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float, base: nn.Module
    ) -> torch.Tensor:
        out, factors = product(x, a, b, scale, base)
        ctx.save_for_backward(x, *factors)
        ctx.scale, ctx.base, ctx.dtype = scale, base, a.dtype
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, *factors = ctx.saved_tensors
        return *gradients_of(ctx, gradients[0], x, factors, of_x=ctx.needs_input_grad[0]), None, None


def product(
    x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float, base: nn.Module
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """y [..., out], and what the gradient needs besides x: x A^T [tokens, r], A and B in the type of x."""
    flat, down, up = x.flatten(0, -2), a.to(x.dtype), b.to(x.dtype)
    low = flat @ down.t()
    out = _of_base(base, flat)
    out.addmm_(low, up.t(), alpha=scale)
    return out.view(*x.shape[:-1], len(b)), (low, down, up)


def gradients_of(
    ctx: Any, gradient: torch.Tensor, x: torch.Tensor, factors: Sequence[torch.Tensor], *, of_x: bool
) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]:
    """The gradients of x, if wanted, of A and of B. ctx: has scale, base and the type of A and B; factors: see `product`."""
    low, down, up = factors
    flat, gradient = x.flatten(0, -2), gradient.flatten(0, -2)
    of_low = (gradient @ up).mul_(ctx.scale)
    of_a = (of_low.t() @ flat).to(ctx.dtype)
    of_b = (gradient.t() @ low).to(ctx.dtype).mul_(ctx.scale)
    if not of_x:
        return None, of_a, of_b
    whole = times(gradient, _weight_of(ctx.base, gradient.dtype)).addmm_(of_low, down)
    return whole.view(x.shape), of_a, of_b


def _of_base(base: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The base layer's own output."""
    if by_one_dnn() and x.device.type == "cpu" and not (base._forward_hooks or base._forward_pre_hooks):
        return linear(x, _weight_of(base, x.dtype), cast(torch.Tensor | None, base.bias))
    out: torch.Tensor = base(x)
    return out


def _trained(base: nn.Module) -> bool:
    """Whether its weight is trained. That of packed ones is not, and would be made anew for the question."""
    return not isinstance(base, PackedLinear) and bool(cast(torch.Tensor, base.weight).requires_grad)


def _weight_of(base: nn.Module, dtype: torch.dtype) -> torch.Tensor:
    """Weights [out, in] as the layer multiplies by them."""
    if isinstance(base, _PACKED):
        return base.dequantised(dtype)
    weight = base.weight
    assert isinstance(weight, torch.Tensor)
    return weight
