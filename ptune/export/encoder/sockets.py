"""Sockets of an encoder: every linear layer of its body gets inputs for adapters.

y = x W + ((x A) * lora_mask) B + b, with x [batch, seq, in], A [in, R], B [R, out], lora_mask [batch, 1, R].

The product x W is added to the update, bias included, by one Gemm after another, without another pass over the output.
With R = 0 the update is the bias alone, one row that the second Gemm broadcasts: the bare base costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ptune.export.decoder.sockets import Socket


@dataclass
class EncoderInputs:
    """The sockets' inputs while the body is traced."""

    lora_mask: Tensor  # [batch, 1, R]
    factors: dict[str, tuple[Tensor, Tensor]]  # socket -> A, B
    low_rank_shape: Tensor  # int64 [2], see `low_rank_shape`


class EncoderSocket(Socket):
    """A linear layer with its parameter names, its weight as [in, out], plus adapters."""

    inputs: EncoderInputs | None = None  # set for each trace

    def forward(self, x: Tensor) -> Tensor:
        assert self.inputs is not None
        if self.name not in self.inputs.factors:  # of a part that this graph does not use
            return x.new_zeros(*x.shape[:-1], self.out_features)
        factor_a, factor_b = self.inputs.factors[self.name]
        lora_mask = self.inputs.lora_mask
        rank = lora_mask.shape[-1]
        flat = x.reshape(-1, self.in_features)
        rows = flat.shape[0]
        # Emitted verbatim: R may be 0, which torch would specialise away.
        low = _emit("MatMul", [x, factor_a], [*x.shape[:-1], rank])
        low = _emit("Reshape", [low * lora_mask, self.inputs.low_rank_shape], [rows, rank], allowzero=1)
        bias = [] if self.bias is None else [self.bias]
        update = _emit("Gemm", [low, factor_b, *bias], [rows, self.out_features])
        out = _emit("Gemm", [flat, self.weight, update], [rows, self.out_features])
        return out.reshape(*x.shape[:-1], self.out_features)


def low_rank_shape(input_ids: Tensor, lora_mask: Tensor) -> Tensor:
    """The shape [rows, R] of flattened x A, int64 [2]; rows is batch * seq, or 1 if R is 0."""

    def whole(kind: str, inputs: list[Tensor], *shape: int, **attributes: int) -> Tensor:
        return torch.onnx.ops.symbolic(kind, inputs, attributes, dtype=torch.int64, shape=shape)

    one = torch.ones(1, dtype=torch.int64)
    rank = whole("Shape", [lora_mask], 1, start=1)
    tokens = whole("Size", [input_ids])
    rows = whole("Max", [whole("Mul", [tokens, whole("Min", [rank, one], 1)], 1), one], 1)
    return whole("Concat", [rows, rank], 2, axis=0)


def _emit(kind: str, inputs: list[Tensor], shape: list[int | torch.SymInt], **attributes: int) -> Tensor:
    return torch.onnx.ops.symbolic(kind, inputs, attributes, dtype=torch.float32, shape=shape)
