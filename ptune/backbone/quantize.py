"""Quantises frozen linear layers, and the experts of a mixture, to 4 or 8 bits (bitsandbytes).

Weights are always quantised on the CPU and moved afterwards, so that the same recipe has the same base identity on
every device. Each is quantised as soon as it is read, so that memory never holds more than one of them unquantised.
"""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Int8Params, Linear4bit, Linear8bitLt, Params4bit
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from ptune.backbone.layer_file import LayerFile, places_of
from ptune.backbone.nf4_bytes import nf4_bytes
from ptune.backbone.packed_experts import experts_of, pack_experts, prepare_packed, weights_of
from ptune.errors import BackboneError
from ptune.methods.text_part import text_part
from ptune.progress import Progress

Quantization = Literal["int8", "nf4"]


class _Packed:
    """A bitsandbytes layer that packs its weights when they are set."""

    on_packed: Callable[[nn.Parameter], None] | None = None  # called once, with the packed weights

    def pack(self, weight: torch.Tensor) -> nn.Parameter:
        """Packs weights [out, in] on the CPU."""
        raise NotImplementedError

    def __setattr__(self, name: str, value: Any) -> None:
        plain = name == "weight" and not isinstance(value, Params4bit | Int8Params)
        if plain and value.is_floating_point() and not value.is_meta:
            value = self.pack(value.data)
            value._is_hf_initialized = True  # or transformers would fill it with random numbers
            if self.on_packed is not None:
                self.on_packed(value)
                self.on_packed = None
        super().__setattr__(name, value)


class Nf4Linear(_Packed, Linear4bit):
    """A linear layer in 4-bit NormalFloat, in blocks of 64 whose scales are quantised too.

    It stays in training mode, so that it evaluates with the kernel that trains. In evaluation mode bitsandbytes repacks the
    bytes for a kernel of the CPU without a gradient: training after a validation would lose the gradient without a word.

    Source: QLoRA (Dettmers et al. 2023, https://arxiv.org/abs/2305.14314).
    """

    def __init__(self, plain: nn.Linear, on_packed: Callable[[nn.Parameter], None] | None = None) -> None:
        super().__init__(
            plain.in_features, plain.out_features, plain.bias is not None, quant_type="nf4", device="meta"
        )
        self.on_packed = on_packed
        self.weight = plain.weight
        self.bias = plain.bias

    def train(self, mode: bool = True) -> nn.Module:
        return super().train(True)

    def set_compute_type(self, x: torch.Tensor) -> None:
        """It computes in the type of its input. bitsandbytes does, too, but warns of float16 that it might not."""
        self.compute_dtype = x.dtype

    def pack(self, weight: torch.Tensor) -> nn.Parameter:
        """As `_Packed.pack`; the same bytes with any number of threads."""
        packed, state = nf4_bytes(weight)
        return Params4bit(packed, quant_state=state, quant_type="nf4", module=self, bnb_quantized=True)

    def dequantised(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Weights [out, in]: code * scale, computed in float32 and rounded to `dtype`.

        Raises: BackboneError if the bytes were repacked, which loses some of them.
        """
        state = copy.copy(self.weight.quant_state)
        if getattr(state, "packing_format_for_cpu", False):
            raise BackboneError("a 4-bit layer was repacked and cannot be dequantised: load the model again")
        state.dtype = dtype
        return dequantize_4bit(self.weight.data, state)


class Int8Linear(_Packed, Linear8bitLt):
    """A linear layer in int8, with one scale per output row.

    It multiplies by the weights that its bytes stand for, on every device, in training and evaluation. bitsandbytes' own
    product quantises the activations, too: on a GPU always, on a CPU in evaluation.

    Source of the bytes: LLM.int8() (Dettmers et al. 2022, https://arxiv.org/abs/2208.07339).
    """

    def __init__(self, plain: nn.Linear, on_packed: Callable[[nn.Parameter], None] | None = None) -> None:
        super().__init__(
            plain.in_features,
            plain.out_features,
            plain.bias is not None,
            has_fp16_weights=False,
            device="meta",
        )
        self.on_packed = on_packed
        self.weight = plain.weight
        self.bias = plain.bias

    def pack(self, weight: torch.Tensor) -> nn.Parameter:
        """As `_Packed.pack`."""
        packed: nn.Parameter = Int8Params(weight, requires_grad=False).to("cpu")
        return packed

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., in] -> [..., out]"""
        product: torch.Tensor = DequantisedProduct.apply(x, self.bias, self)
        return product

    def dequantised(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Weights [out, in]: int8 * row scale / 127, computed in float32 and rounded to `dtype`."""
        row_scale = self.weight.SCB.float().mul(1.0 / 127.0)
        return self.weight.data.to(dtype).mul_(row_scale.unsqueeze(1))


class DequantisedProduct(torch.autograd.Function):
    """x W^T + bias, of a layer that has `dequantised`. Weights are made anew for the gradient: kept, they would take two to eight times
    the bytes.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, bias: torch.Tensor | None, layer: Any) -> torch.Tensor:
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


def quantize(
    model: PreTrainedModel, kind: Quantization, on_packed: Callable[[nn.Parameter], None] | None = None
) -> None:
    """Replaces every linear layer except the output head, and packs the experts of a mixture, in place. The weights must be on the CPU, or not be read yet.

    on_packed: called with the weights of each layer when they are packed.
    Raises: BackboneError where the model has no such layer.
    """
    for name, linear in _linears(model, kind).items():
        layer = Nf4Linear(linear, on_packed) if kind == "nf4" else Int8Linear(linear, on_packed)
        model.set_submodule(name, layer)
    for _, experts in list(experts_of(model)):
        pack_experts(experts, kind, on_packed)
    # peft chooses its adapter layers by these two attributes.
    model.is_loaded_in_4bit, model.is_loaded_in_8bit = kind == "nf4", kind == "int8"


@contextlib.contextmanager
def quantized_as_read(kind: Quantization, file: LayerFile | None = None) -> Iterator[None]:
    """Has `from_pretrained` quantise each weight as it reads it. Raises: BackboneError, as `quantize`.

    file: where the packed weights go, so that memory holds one of them.
    """

    def read(model: PreTrainedModel, *arguments: Any, **named: Any) -> Any:
        experts = sum(len(weights_of(module)) for _, module in experts_of(model))
        with Progress(
            f"quantising to {kind}", len(_linears(model, kind)) + experts, unit="layers"
        ) as progress:

            def packed(weight: nn.Parameter) -> None:
                if file is not None:
                    for place in places_of(weight):
                        place.put(file.keep(place.tensor))
                progress.advance()

            quantize(model, kind, packed)
            return own(model, *arguments, **named)

    bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # it would count the same
    try:
        with read_in_turn(), _before_weights(read) as own:
            yield
    finally:
        if bar:
            transformers_logging.enable_progress_bar()


@contextlib.contextmanager
def experts_packed_already(kind: Quantization, they_are: bool) -> Iterator[None]:
    """Has `from_pretrained` read the experts of a mixture as `quantize` packs them, where the files hold them so."""

    def read(model: PreTrainedModel, *arguments: Any, **named: Any) -> Any:
        for _, experts in list(experts_of(model)) if they_are else ():
            prepare_packed(experts, kind)
        return own(model, *arguments, **named)

    with _before_weights(read) as own:
        yield


@contextlib.contextmanager
def _before_weights(read: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """Has `from_pretrained` call `read` in place of the function that reads weights, which it yields."""
    own = PreTrainedModel._load_pretrained_model
    PreTrainedModel._load_pretrained_model = staticmethod(read)
    try:
        yield own
    finally:
        PreTrainedModel._load_pretrained_model = staticmethod(own)


@contextlib.contextmanager
def read_in_turn() -> Iterator[None]:
    """Keeps transformers' threads from reading weights faster than they are quantised, which would pile them up."""
    name = "HF_DEACTIVATE_ASYNC_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _linears(model: PreTrainedModel, kind: Quantization) -> dict[str, nn.Linear]:
    """The layers to quantise, by name: of a model that sees images its decoder's. Raises: BackboneError where there are none."""
    head, decoder = model.get_output_embeddings(), text_part(model)
    linears = {
        name: layer
        for name, layer in model.named_modules()
        if type(layer) is nn.Linear and layer is not head and name.startswith(decoder)
    }
    if not linears:
        raise BackboneError(
            f"backbone.quantize {kind!r}: {type(model).__name__} has no nn.Linear layers that bitsandbytes can hold"
        )
    return linears
