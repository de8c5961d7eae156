"""Quantises frozen linear layers to 4 or 8 bits (bitsandbytes).

Weights are always quantised on the CPU and moved afterwards, so that the same recipe has the same base identity on
every device.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
import torch.nn.functional as F
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Int8Params, Linear4bit, Linear8bitLt, Params4bit
from torch import nn
from transformers import PreTrainedModel

from ptune.errors import BackboneError
from ptune.progress import Progress

Quantization = Literal["int8", "nf4"]


class Nf4Linear(Linear4bit):
    """A linear layer in 4-bit NormalFloat, in blocks of 64 whose scales are quantised too.

    It stays in training mode, so that it evaluates with the kernel that trains. In evaluation mode bitsandbytes repacks the
    bytes for a kernel of the CPU without a gradient: training after a validation would lose the gradient without a word.

    Source: QLoRA (Dettmers et al. 2023, https://arxiv.org/abs/2305.14314).
    """

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__(
            plain.in_features, plain.out_features, plain.bias is not None, quant_type="nf4", device="meta"
        )
        self.weight = Params4bit(plain.weight.data, requires_grad=False, quant_type="nf4", module=self).to(
            "cpu"
        )
        self.bias = plain.bias

    def train(self, mode: bool = True) -> nn.Module:
        return super().train(True)

    def dequantised(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Weights [out, in]: code * scale, computed in float32 and rounded to `dtype`.

        Raises: BackboneError if the bytes were repacked, which loses some of them.
        """
        state = copy.copy(self.weight.quant_state)
        if getattr(state, "packing_format_for_cpu", False):
            raise BackboneError("a 4-bit layer was repacked and cannot be dequantised: load the model again")
        state.dtype = dtype
        return dequantize_4bit(self.weight.data, state)


class Int8Linear(Linear8bitLt):
    """A linear layer in int8, with one scale per output row.

    It multiplies by the weights that its bytes stand for, on every device, in training and evaluation. bitsandbytes' own
    product quantises the activations, too: on a GPU always, on a CPU in evaluation.

    Source of the bytes: LLM.int8() (Dettmers et al. 2022, https://arxiv.org/abs/2208.07339).
    """

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__(
            plain.in_features,
            plain.out_features,
            plain.bias is not None,
            has_fp16_weights=False,
            device="meta",
        )
        self.weight = Int8Params(plain.weight.data, requires_grad=False).to("cpu")
        self.bias = plain.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., in] -> [..., out]"""
        product: torch.Tensor = _Int8Product.apply(x, self.bias, self)
        return product

    def dequantised(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Weights [out, in]: int8 * row scale / 127, computed in float32 and rounded to `dtype`."""
        row_scale = self.weight.SCB.float().mul(1.0 / 127.0)
        return self.weight.data.to(dtype).mul_(row_scale.unsqueeze(1))


class _Int8Product(torch.autograd.Function):
    """x W^T + bias. Weights are dequantised anew for the gradient: kept, they would take two to four times the bytes."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, bias: torch.Tensor | None, layer: Int8Linear) -> torch.Tensor:
        ctx.layer = layer
        return F.linear(x, layer.dequantised(x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = gradients
        of_x, of_bias, _ = ctx.needs_input_grad
        return (
            gradient @ ctx.layer.dequantised(gradient.dtype) if of_x else None,
            gradient.flatten(0, -2).sum(0) if of_bias else None,
            None,
        )


def quantize(model: PreTrainedModel, kind: Quantization) -> None:
    """Replaces every linear layer except the output head, in place. The weights must be on the CPU.

    Raises: BackboneError where the model has no such layer.
    """
    head = model.get_output_embeddings()
    linears = {
        name: layer for name, layer in model.named_modules() if type(layer) is nn.Linear and layer is not head
    }
    if not linears:
        raise BackboneError(
            f"backbone.quantize {kind!r}: {type(model).__name__} has no nn.Linear layers that bitsandbytes can hold"
        )
    layer_of = Nf4Linear if kind == "nf4" else Int8Linear
    with Progress(f"quantising to {kind}", len(linears), unit="layers") as progress:
        for name, layer in linears.items():
            model.set_submodule(name, layer_of(layer))
            progress.advance()
    for parameter in model.parameters():
        if not isinstance(parameter, Params4bit | Int8Params):
            parameter.data = parameter.data.clone()  # a view would keep the whole file in memory
    # peft chooses its adapter layers by these two attributes.
    model.is_loaded_in_4bit, model.is_loaded_in_8bit = kind == "nf4", kind == "int8"
