"""Main memory while a model is loaded and quantised."""

from __future__ import annotations

import torch

from ptune.planning.files import Described


def loading_bytes(held: int, weights: int, largest: int, dtype: torch.dtype, described: Described) -> int:
    """Peak of the bytes that loading adds.

    held: of the loaded weights, quantisation state included; weights: their number; largest: the number in the largest.
    dtype: of weights that are not quantised.

    safetensors files are mapped, not read: their pages count as long as any tensor is a view of them. Weights in the file's
    own type stay views. Converted or quantised weights are in memory beside the file until its last view is gone. All
    weights of a GGUF file are unpacked to float32, the largest with a temporary copy. A model that is not on this machine
    yet is assumed to be published in bfloat16.
    """
    if described.kind == "gguf":
        converted = 0 if dtype == torch.float32 else weights * dtype.itemsize
        return described.file_bytes + 4 * weights + 2 * 4 * largest + converted
    file_bytes, stored = described.file_bytes, described.dtype
    if described.kind == "unknown":
        file_bytes, stored = 2 * weights, torch.bfloat16
    if stored != dtype:
        return max(file_bytes + weights * dtype.itemsize, held)
    return held if held == weights * dtype.itemsize else file_bytes + held
