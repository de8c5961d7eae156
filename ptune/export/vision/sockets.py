"""Sockets of an image model: its linear layers and ungrouped convolutions get inputs for adapters.

A convolution: y = conv(x, W) + conv1x1(conv(x, A) * lora_mask, B) + b, with A [R, in, kh, kw] and B [out, R, 1, 1].
A linear layer: y = x W + ((x A) * lora_mask) B + b, with A [in, R] and B [R, out].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ptune.formats import signature
from ptune.methods.image_layers import adaptable


@dataclass
class VisionInputs:
    """The sockets' inputs while the body is traced."""

    lora_mask: Tensor  # [batch, R]
    lora_mask_of_pixels: Tensor  # the same, [batch, R, 1, 1]
    factors: dict[str, tuple[Tensor, Tensor]]  # socket -> A, B


class LinearSocket(nn.Module):
    """A linear layer with its weight as [in, out], plus adapters."""

    kernel = None

    def __init__(self, linear: nn.Linear, name: str) -> None:
        super().__init__()
        self.name = name
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight = nn.Parameter(linear.weight.detach().T.contiguous(), requires_grad=False)
        self.bias = linear.bias
        self.inputs: VisionInputs | None = None  # set for each trace

    def forward(self, x: Tensor) -> Tensor:
        assert self.inputs is not None
        factor_a, factor_b = self.inputs.factors[self.name]
        lora_mask = self.inputs.lora_mask
        base = x @ self.weight if self.bias is None else x @ self.weight + self.bias
        batch, rank = lora_mask.shape
        flat = x.reshape(batch, -1, self.in_features)  # the windows of an image are consecutive
        # Emitted verbatim: R may be 0, which torch would specialise away.
        low = _emit("MatMul", [flat, factor_a], [*flat.shape[:2], rank])
        update = _emit("MatMul", [low * lora_mask[:, None], factor_b], [*flat.shape[:2], self.out_features])
        return base + update.reshape(base.shape)


class ConvSocket(nn.Module):
    """An ungrouped convolution, plus adapters."""

    def __init__(self, conv: nn.Conv2d, name: str) -> None:
        super().__init__()
        self.name = name
        self.conv = conv
        self.in_features, self.out_features = conv.in_channels, conv.out_channels
        self.kernel = (conv.kernel_size[0], conv.kernel_size[1])
        self.inputs: VisionInputs | None = None  # set for each trace

    @property
    def weight(self) -> Tensor:
        """The convolution's weight; some models read its dtype."""
        return self.conv.weight

    def forward(self, x: Tensor) -> Tensor:
        assert self.inputs is not None
        factor_a, factor_b = self.inputs.factors[self.name]
        lora_mask = self.inputs.lora_mask
        base: Tensor = self.conv(x)
        batch, _, height, width = base.shape
        (pad_height, pad_width), conv = self.conv.padding, self.conv
        low = _emit(
            "Conv",
            [x, factor_a],
            [batch, lora_mask.shape[1], height, width],
            strides=list(conv.stride),
            dilations=list(conv.dilation),
            pads=[int(pad_height), int(pad_width)] * 2,
            kernel_shape=list(self.kernel),
        )
        update = _emit(
            "Conv", [low * self.inputs.lora_mask_of_pixels, factor_b], list(base.shape), kernel_shape=[1, 1]
        )
        return base + update


def install(model: PreTrainedModel, body: nn.Module) -> list[ConvSocket | LinearSocket]:
    """Puts sockets into `body`, a copy of the model's, wherever LoRA can be trained. Returns them in order."""
    prefix = f"{model.base_model_prefix}."
    sockets: list[ConvSocket | LinearSocket] = []
    for full in adaptable(model):
        name = full.removeprefix(prefix)
        parent, _, leaf = name.rpartition(".")
        layer = body.get_submodule(name)
        socket = ConvSocket(layer, name) if isinstance(layer, nn.Conv2d) else LinearSocket(layer, name)
        setattr(body.get_submodule(parent), leaf, socket)
        sockets.append(socket)
    return sockets


def describe(sockets: Sequence[ConvSocket | LinearSocket]) -> tuple[signature.Socket, ...]:
    """The sockets in the form of the bundle's signature."""
    return tuple(
        signature.Socket(name=s.name, in_features=s.in_features, out_features=s.out_features, kernel=s.kernel)
        for s in sockets
    )


def _emit(kind: str, inputs: list[Tensor], shape: list[Any], **attributes: list[int]) -> Tensor:
    return torch.onnx.ops.symbolic(kind, inputs, attributes, dtype=torch.float32, shape=shape)
