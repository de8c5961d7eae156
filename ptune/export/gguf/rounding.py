"""The types that weights take in a GGUF file, and what is left of weights in them.

gguf-py rounds to F16, Q8_0, Q4_0 and Q4_1 in numpy; to Q4_K llama.cpp itself does, whose C function is in the wheel.
"""

from __future__ import annotations

from collections.abc import Callable

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from numpy.typing import NDArray

Weights = NDArray[np.float32]
FOUR_BITS = ("Q4_1", "Q4_0", "Q4_K")
_FILE_TYPES = {
    "F32": gguf.LlamaFileType.ALL_F32,
    "F16": gguf.LlamaFileType.MOSTLY_F16,
    "Q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "Q4_1": gguf.LlamaFileType.MOSTLY_Q4_1,
    "Q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
    "Q4_K": gguf.LlamaFileType.MOSTLY_Q4_K_S,
}
Quantizer = Callable[[Weights, int], NDArray[np.uint8]]
"""llama.cpp's own rounding: weights [rows, in] and a type's number to bytes."""


def file_type(wanted: str) -> gguf.LlamaFileType:
    return _FILE_TYPES[wanted]


def type_of(name: str, shape: tuple[int, ...], wanted: str) -> Type:
    """The type of a tensor of this name and shape [out, in] in a file of type `wanted`.

    Vectors and positions stay float32. Embedding and head of a file in 4 bits are Q8_0, as llama.cpp's own are larger, too.
    A row that is no whole number of blocks takes the next larger type.
    """
    if len(shape) < 2 or name.startswith("position_embd"):
        return Type.F32
    if wanted in FOUR_BITS and name in ("token_embd.weight", "output.weight"):
        wanted = "Q8_0"
    smaller = (Type.Q4_1,) if wanted in FOUR_BITS else ()
    for kind in (Type[wanted], *smaller, Type.Q8_0, Type.F16):
        if shape[-1] % gguf.GGML_QUANT_SIZES[kind][0] == 0:
            return kind
    raise AssertionError(shape)  # a block of F16 is one number


def stored(weights: Weights, kind: Type, quantizer: Quantizer) -> NDArray[np.generic]:
    """A tensor as it is in the file."""
    if kind == Type.Q4_K:
        return quantizer(weights, int(kind))
    found: NDArray[np.generic] = gguf.quants.quantize(weights, kind)
    return found


def left_of(data: NDArray[np.generic], kind: Type) -> Weights:
    """What a stored tensor stands for, in float32."""
    found: Weights = gguf.quants.dequantize(data, kind)
    return found


def stored_size(shape: tuple[int, ...], kind: Type) -> int:
    """Bytes of a tensor."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    return int(np.prod(shape)) // block * size
