"""The body of any image model, of transformers or timm, traced into one ONNX graph under the encoder's signature.

The body ends at its hidden states; everything after them (pooling, norm, classifier) is the head: see `vision_head`.
Batch normalisation is folded into the convolution before it, adapters included: see `fold`.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from onnxscript import optimizer
from torch import Tensor, nn
from transformers import PreTrainedModel, TimmWrapperForImageClassification

from ptune.export.decoder.trace import DYNAMIC, Traced
from ptune.export.encoder.trace import traced
from ptune.export.vision.fold_batch_norm import fold_batch_norms
from ptune.export.vision.sockets import ConvSocket, LinearSocket, VisionInputs, describe, install
from ptune.formats.signature import EncoderSignature

VisionSocket = ConvSocket | LinearSocket


class VisionBody(nn.Module):
    """One pass of the engine: images through the body, with adapters as inputs."""

    def __init__(self, body: nn.Module, sockets: list[VisionSocket]) -> None:
        super().__init__()
        self.body = body
        self.sockets = sockets

    def forward(self, pixel_values: Tensor, lora_mask: Tensor, factors: list[Tensor]) -> Tensor:
        """Returns hidden [batch, channels, h, w] or [batch, patches, width]."""
        pairs = {s.name: (factors[2 * i], factors[2 * i + 1]) for i, s in enumerate(self.sockets)}
        inputs = VisionInputs(lora_mask, lora_mask[:, :, None, None], pairs)
        for socket in self.sockets:
            socket.inputs = inputs
        return hidden_of(self.body, pixel_values)


def hidden_of(body: nn.Module, pixel_values: Tensor) -> Tensor:
    """The last hidden states of a body."""
    if hasattr(body, "forward_features"):  # timm's
        features: Tensor = body.forward_features(pixel_values)
        return features
    hidden: Tensor = body(pixel_values=pixel_values).last_hidden_state
    return hidden


def trace_vision(model: PreTrainedModel, size: tuple[int, int], *, sockets: bool = True) -> Traced:
    """Traces the body of a float32 image classifier, with its weights.

    size: height and width of the images, fixed in the graph.
    sockets: whether adapters can be plugged in; a fully trained body is faster without.
    Raises: BackboneError with the reason if the architecture cannot be exported.
    """
    body = copy.deepcopy(model.base_model).eval().requires_grad_(False)
    plugged = install(model, body) if sockets else []
    signature = EncoderSignature(
        modality="image", prefix=f"{model.base_model_prefix}.", sockets=describe(plugged)
    )
    arguments, dynamic = example(signature, size)
    graph = traced(VisionBody(body, plugged).eval(), arguments, dynamic, signature, named(model))
    optimizer.optimize(graph)
    fold_batch_norms(graph)
    return Traced(graph, signature, frozenset(), {})


def named(model: PreTrainedModel) -> str:
    """The architecture's name."""
    timm = isinstance(model, TimmWrapperForImageClassification)
    return str(model.config.architecture if timm else model.config.model_type)


def example(signature: EncoderSignature, size: tuple[int, int]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Example arguments of `VisionBody.forward`, and their dynamic axes."""
    batch, rank = 3, 8
    factors: list[Tensor] = []
    axes: list[dict[int, Any]] = []
    for socket in signature.sockets:
        inside, outside, kernel = socket.in_features, socket.out_features, socket.kernel
        if kernel is None:
            factors += [torch.zeros(inside, rank), torch.zeros(rank, outside)]
            axes += [{1: DYNAMIC}, {0: DYNAMIC}]
        else:
            factors += [torch.zeros(rank, inside, *kernel), torch.zeros(outside, rank, 1, 1)]
            axes += [{0: DYNAMIC}, {1: DYNAMIC}]
    pixels, lora_mask = torch.zeros(batch, 3, *size), torch.zeros(batch, rank)
    return (pixels, lora_mask, factors), ({0: DYNAMIC}, {0: DYNAMIC, 1: DYNAMIC}, axes)
