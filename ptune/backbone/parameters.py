"""The number of a model's weights."""

from __future__ import annotations

from torch import nn

from ptune.backbone.packed.linear import PackedLinear
from ptune.backbone.packed_experts import counts_of_packed


def parameters_of(model: nn.Module) -> int:
    """Number of weights, as if they were not packed."""
    packed = {id(p): 2 * p.numel() for p in model.parameters() if getattr(p, "quant_state", None) is not None}
    packed |= counts_of_packed(model)
    for layer in model.modules():
        if isinstance(layer, PackedLinear):
            first, *rest = layer.parts.values()
            packed |= {id(first): layer.in_features * layer.out_features, **{id(one): 0 for one in rest}}
    return sum(packed.get(id(parameter), parameter.numel()) for parameter in model.parameters())
