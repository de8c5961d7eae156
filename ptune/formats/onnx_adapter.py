"""LoRA as onnxruntime reads it (`.onnx_adapter`): the inputs of a graph by their names, with the scale already in B.

The names are those of onnxruntime-genai's model builder, which Olive keeps: `model.layers.0.attn.q_proj.lora_A.MatMul.weight`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ptune.errors import FormatError, in_one_line

SUFFIX = ".onnx_adapter"
VERSION = 1  # of an adapter and of its model, which onnxruntime keeps and does not look at
Side = Literal["A", "B"]
Pair = tuple[NDArray[Any], NDArray[Any]]
"""A [in, rank] and B [rank, out], float32 or float16."""

_INPUT = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.default)?(?:\.MatMul)?\.weight")
_NUMBERS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


def input_of(layer: str, side: Side) -> str:
    """The graph's input for a factor of a linear layer, by transformers' name of the layer."""
    return f"{layer.replace('.self_attn.', '.attn.')}.lora_{side}.MatMul.weight"


def factor_of(name: str) -> tuple[str, Side] | None:
    """transformers' name of the layer that an input belongs to, and its side. None for an input that is no factor.

    Also by the names of `olive convert-adapters`, which are PEFT's.
    """
    found = _INPUT.fullmatch(name)
    if found is None:
        return None
    layer = re.sub(r"^(model\.layers\.\d+)\.attn\.", r"\1.self_attn.", found[1])
    return layer, "A" if found[2] == "A" else "B"


def write_onnx_adapter(path: Path, pairs: Mapping[str, Pair]) -> None:
    """Writes the factors of linear layers, by transformers' names of these."""
    from onnxruntime import AdapterFormat, OrtValue

    tensors = {input_of(layer, "A"): np.ascontiguousarray(a) for layer, (a, _) in pairs.items()}
    tensors |= {input_of(layer, "B"): np.ascontiguousarray(b) for layer, (_, b) in pairs.items()}
    file = AdapterFormat()
    file.set_adapter_version(VERSION)
    file.set_model_version(VERSION)
    file.set_parameters({name: OrtValue.ortvalue_from_numpy(one) for name, one in tensors.items()})
    file.export_adapter(str(path))


def read_onnx_adapter(path: Path) -> dict[str, Pair]:
    """A file's factors, by transformers' names of their linear layers.

    Raises: FormatError for a file that is none, and for one that holds anything else than whole pairs of factors.
    """
    sides: dict[str, dict[Side, NDArray[Any]]] = {}
    for name, tensor in _tensors(path).items():
        factor = factor_of(name)
        if factor is None:
            raise FormatError(
                f"{path} holds {name!r}, and only factors of LoRA are read: names that end in .lora_A.weight or .lora_B.weight,"
                " with .MatMul in between or not"
            )
        layer, side = factor
        if side in sides.setdefault(layer, {}):
            raise FormatError(f"{path} holds lora_{side} of {layer} twice, under two names")
        sides[layer][side] = tensor
    if not sides:
        raise FormatError(f"{path} is empty: it holds no factors")
    return {layer: _pair(path, layer, two) for layer, two in sides.items()}


def _tensors(path: Path) -> dict[str, NDArray[Any]]:
    from onnxruntime import AdapterFormat

    if not path.is_file():
        raise FormatError(f"{path} is missing")
    try:
        file = AdapterFormat.read_adapter(str(path))  # it owns what its parameters point to
        values = file.get_parameters()
    except (RuntimeError, ValueError) as error:  # ValueError: a name that is no UTF-8
        raise FormatError(
            f"{path} is no .onnx_adapter that onnxruntime can read: {in_one_line(error)}"
        ) from None
    for name, value in values.items():
        if value.data_type() not in _NUMBERS:
            raise FormatError(
                f"{path} holds {name!r} as {value.data_type()}, and factors are read in float32 and float16 alone"
            )
    return {name: np.array(value.numpy()) for name, value in values.items()}


def _pair(path: Path, layer: str, sides: Mapping[Side, NDArray[Any]]) -> Pair:
    missing = next((side for side in ("A", "B") if side not in sides), None)
    if missing is not None:
        raise FormatError(f"{path} has no lora_{missing} of {layer}")
    a, b = sides["A"], sides["B"]
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0] or not a.size or not b.size:
        raise FormatError(
            f"{path}: the factors of {layer} are {[*a.shape]} and {[*b.shape]}, and have to be [in, rank] and [rank, out]"
        )
    return a, b
