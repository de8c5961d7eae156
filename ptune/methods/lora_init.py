"""Low-rank adapters that begin as something else than nothing: PiSSA and OLoRA as parts of the base's weights, CorDA and LoRA-GA
(`ptune.methods.lora_from_data`) as what the training's first rows show.

The papers take the part away from the base, W - s B0 A0, and train B and A from B0 and A0 on. Here the base stays as it is, and
the adapter has twice the rank: A and A0 below each other, B and -B0 beside each other, of which A0 and B0 stay as they are. The
function and the gradients of A and B are the same, s B A - s B0 A0, and the adapter is a plain one of the base that everybody has,
a quantised one included.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ptune.errors import RecipeError

if TYPE_CHECKING:
    import torch
    from torch import nn

MIRRORED = ("pissa", "olora", "corda", "lora_ga")


def begin_mirrored(model: nn.Module, init: str) -> None:
    """Freezes the second half of each factor of a PeftModel of twice the rank, and sets those that begin as parts of the weights.

    Raises: RecipeError.
    """
    from peft.tuners.lora import LoraLayer

    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer):
            for adapter in layer.lora_A:
                _begin(name, layer, adapter, init)


def _begin(name: str, layer: Any, adapter: str, init: str) -> None:
    a, b = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
    weight = weight_of(name, layer.get_base_layer())
    rank = layer.r[adapter] // 2
    if rank > min(weight.shape):
        raise RecipeError(
            f"method.init {init!r}: rank {rank} is more than the {min(weight.shape)} that the weights of {name} have"
        )
    if init in ("pissa", "olora") and not a.is_meta:
        set_mirrored(layer, adapter, *_parts(weight, rank, layer.scaling[adapter], init))
    a.register_hook(lambda gradient: _first_half(gradient, 0, rank))
    b.register_hook(lambda gradient: _first_half(gradient, 1, rank))


def set_mirrored(layer: Any, adapter: str, down: torch.Tensor, up: torch.Tensor) -> None:
    """Sets the factors of a layer to A0 [rank, in] and B0 [out, rank] and what takes them away."""
    import torch

    with torch.no_grad():
        layer.lora_A[adapter].weight.copy_(torch.cat([down, down]))
        layer.lora_B[adapter].weight.copy_(torch.cat([up, -up], dim=1))


def _parts(weight: torch.Tensor, rank: int, scale: float, init: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A0 [rank, in] and B0 [out, rank] of weights [out, in]."""
    import torch

    if init == "olora":
        q, r = torch.linalg.qr(weight)
        return r[:rank], q[:, :rank]
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    root = (values[:rank] / scale).sqrt()
    return root[:, None] * right[:rank], left[:, :rank] * root


def _first_half(gradient: torch.Tensor, axis: int, rank: int) -> torch.Tensor:
    """The gradient, zero for the half that stays."""
    kept = gradient.clone()
    kept.narrow(axis, rank, rank).zero_()
    return kept


def weight_of(name: str, layer: nn.Module) -> torch.Tensor:
    """A linear layer's weights [out, in] in float32, dequantised. Raises: RecipeError for another layer."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    dequantised = getattr(layer, "dequantised", None)
    weight: Any = layer.weight
    if dequantised is not None and not weight.is_meta:
        weight = dequantised()
    elif dequantised is not None:
        weight = weight.new_empty(layer.out_features, layer.in_features, dtype=None)
    if not isinstance(layer, nn.Linear | Conv1D):
        raise RecipeError(
            f"method.init: {name} is no linear layer: leave it out by method.target_modules, or use init default"
        )
    found: torch.Tensor = weight.detach().float()
    return found.T if isinstance(layer, Conv1D) else found
