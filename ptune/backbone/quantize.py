"""Holding frozen linear layers in 4 or 8 bits (bitsandbytes), and turning them back into plain float32 layers.

Weights are always quantised on the CPU and moved afterwards, so that the same recipe has the same base identity on
every device.
"""

from __future__ import annotations

import logging
from typing import Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from ptune.errors import BackboneError
from ptune.progress import Progress

Quantization = Literal["int8", "nf4"]

# One warns that it has no optional kernel for a format which is switched off below, the other, at every call, that
# it casts to float16.
for _name in ("bitsandbytes.backends.cpu.ops", "bitsandbytes.autograd._functions"):
    logging.getLogger(_name).setLevel(logging.ERROR)


def quantize(model: PreTrainedModel, kind: Quantization) -> None:
    """Replaces every linear layer but the output head, in place; the weights must be on the CPU.

    nf4: QLoRA's NormalFloat4 in blocks of 64 with doubly quantised scales (Dettmers et al. 2023,
    https://arxiv.org/abs/2305.14314). int8: one scale an output row (Dettmers et al. 2022,
    https://arxiv.org/abs/2208.07339).

    Raises: BackboneError where the model has no such layer.
    """
    head = model.get_output_embeddings()
    linears = [
        (name, layer)
        for name, layer in model.named_modules()
        if type(layer) is nn.Linear and layer is not head
    ]
    if not linears:
        raise BackboneError(
            f"backbone.quantize {kind!r}: {type(model).__name__} has no nn.Linear layers that bitsandbytes can hold"
        )
    pack = _nf4 if kind == "nf4" else _int8
    with Progress(f"quantising to {kind}", len(linears), unit="layers") as progress:
        for name, layer in linears:
            model.set_submodule(name, pack(layer))
            progress.advance()
    # peft chooses its adapter layers by these two marks.
    model.is_loaded_in_4bit = kind == "nf4"
    model.is_loaded_in_8bit = kind == "int8"


def dequantize(model: PreTrainedModel) -> None:
    """Replaces every bitsandbytes layer by a plain linear layer with the weights it stands for in float32, in place.

    What is left is the model that an adapter trained on the quantised one belongs to, without bitsandbytes' kernels.

    Raises: BackboneError where a layer's bytes were repacked by a forward pass of somebody else's and are lost.
    """
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    for name, layer in list(model.named_modules()):
        if isinstance(layer, Linear4bit | Linear8bitLt):
            model.set_submodule(
                name,
                _plain(layer, _nf4_weight(layer) if isinstance(layer, Linear4bit) else _int8_weight(layer)),
            )
    model.is_loaded_in_4bit = model.is_loaded_in_8bit = False


def _nf4(layer: nn.Linear) -> nn.Module:
    from bitsandbytes.nn import Linear4bit, Params4bit

    packed = Linear4bit(
        layer.in_features, layer.out_features, bias=layer.bias is not None, quant_type="nf4", device="meta"
    )
    packed.weight = Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4", module=packed).to(
        "cpu"
    )
    packed.bias = layer.bias
    # On some CPUs bitsandbytes repacks the bytes at the first evaluation for a kernel that knows no gradient; training
    # that goes on after a validation would then silently lose the gradient through every such layer.
    packed.support_avx512bf16_for_cpu = False
    return packed


def _int8(layer: nn.Linear) -> nn.Module:
    from bitsandbytes.nn import Int8Params, Linear8bitLt

    packed = Linear8bitLt(
        layer.in_features,
        layer.out_features,
        bias=layer.bias is not None,
        has_fp16_weights=False,
        device="meta",
    )
    packed.weight = Int8Params(layer.weight.data, requires_grad=False).to("cpu")
    packed.bias = layer.bias
    return packed


def _nf4_weight(layer: nn.Module) -> torch.Tensor:
    """[out, in] in float32."""
    from bitsandbytes.functional import dequantize_4bit

    state = layer.weight.quant_state
    if getattr(state, "packing_format_for_cpu", False):
        raise BackboneError(
            "a 4-bit layer was repacked by a forward pass and cannot be dequantised: load it again"
        )
    return dequantize_4bit(layer.weight.data, state).float()


def _int8_weight(layer: nn.Module) -> torch.Tensor:
    """[out, in] in float32: int8 * row scale / 127, as the layer itself computes it in training."""
    row_scale = (
        layer.weight.SCB if layer.weight.SCB is not None else layer.state.SCB
    )  # the first forward moves it
    return layer.weight.data.float().mul_(row_scale.float().unsqueeze(1).mul(1.0 / 127.0))


def _plain(layer: nn.Module, weight: torch.Tensor) -> nn.Linear:
    plain = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
    plain.weight = nn.Parameter(weight, requires_grad=False)
    plain.bias = None if layer.bias is None else nn.Parameter(layer.bias.data.float(), requires_grad=False)
    return plain.train(layer.training)
