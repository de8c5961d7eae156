"""A model whose layers hold float32 copies of weights that ptune makes anew whenever a layer runs."""

from __future__ import annotations

from torch import nn

from ptune.backbone.float32 import Float32Linear


def with_own_weights(model: nn.Module) -> None:
    """Gives every layer float32 weights of its own, in place."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, Float32Linear):
            plain = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
            plain.weight, plain.bias = nn.Parameter(layer.weight, requires_grad=False), layer.bias
            model.set_submodule(name, plain)
