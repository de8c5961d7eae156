"""Operators of torch that its exporter cannot write."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from onnxscript import opset20 as op

_A = 0.147  # Winitzki's constant
_STEPS = 2  # of Newton's method, each of which doubles the digits


def erfinv(y: Any) -> Any:
    """The inverse of the error function: Winitzki's approximation, improved by Newton's method.

    Gemma 3n reads from it how much of its activations it keeps; onnxruntime computes it once, since it depends on no input.
    """
    log = op.Log(op.Sub(1.0, op.Mul(y, y)))
    half = op.Add(2 / (math.pi * _A), op.Div(log, 2.0))
    x = op.Mul(op.Sign(y), op.Sqrt(op.Sub(op.Sqrt(op.Sub(op.Mul(half, half), op.Div(log, _A))), half)))
    for _ in range(_STEPS):
        slope = op.Mul(2 / math.sqrt(math.pi), op.Exp(op.Neg(op.Mul(x, x))))
        x = op.Sub(x, op.Div(op.Sub(op.Erf(x), y), slope))
    return x


TRANSLATIONS: Mapping[Callable[..., Any], Callable[..., Any]] = {torch.ops.aten.erfinv.default: erfinv}
