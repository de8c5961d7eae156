"""A frozen linear layer on packed weights."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from ptune.backbone.packed.layout import Layout, Parts
from ptune.backbone.quantize import DequantisedProduct
from ptune.backbone.weight_shapes import made


class PackedLinear(nn.Linear):
    """A linear layer that keeps its weights as a checkpoint has packed them, and multiplies by the values that they stand for.

    Their tensors are its parameters, by the format's names. `weight` [out, in] is made anew whenever it is read, in the type of
    the base; it is no parameter, and missing from the state dict. peft takes the layer for a plain one.
    """

    def __init__(self, plain: nn.Linear, layout: Layout, parts: Parts) -> None:
        """plain: the layer to stand for, whose weights need not be read yet."""
        nn.Module.__init__(self)
        self.in_features, self.out_features = plain.in_features, plain.out_features
        self.layout, self.dtype = layout, plain.weight.dtype
        self._names = tuple(parts)
        for name, tensor in parts.items():
            self.register_parameter(name, nn.Parameter(tensor, requires_grad=False))
        self.register_parameter("bias", plain.bias)
        self._is_hf_initialized = True  # or transformers would fill what `weight` gives with random numbers

    @property
    def weight(self) -> torch.Tensor:
        shape, like = (self.out_features, self.in_features), next(iter(self.parts.values()))
        return made(shape, like, self.dtype, partial(self.dequantised, self.dtype))

    @property
    def parts(self) -> dict[str, nn.Parameter]:
        """The packed tensors, by the format's names."""
        return {name: self._parameters[name] for name in self._names}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., in] -> [..., out]"""
        product: torch.Tensor = DequantisedProduct.apply(x, self.bias, self)
        return product

    def dequantised(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Weights [out, in], computed in float32 and rounded to `dtype`."""
        parts = {name: part.data for name, part in self.parts.items()}
        return self.layout.unpack(parts, (self.out_features, self.in_features)).to(dtype)
