"""Main memory while a model is loaded and quantised."""

from __future__ import annotations

import torch

from ptune.planning.files import Described


def loading_bytes(
    held: int,
    weights: int,
    largest: int,
    dtype: torch.dtype,
    described: Described,
    away: int = 0,
    *,
    quantised: bool,
) -> int:
    """Peak of the bytes that loading adds.

    held: of the loaded weights, quantisation state included; weights: their number; largest: the number in the largest that is changed.
    dtype: of weights that are not quantised. quantised: whether others are.

    Each weight is quantised as it is read, the largest beside a copy in float32. safetensors files are mapped: their pages do
    not count where nothing refers to them, since the system takes them back. Weights in the file's own type stay views of it,
    converted ones are in memory beside it until its last view is gone. All weights of a GGUF file that are not quantised are
    unpacked to float32, the largest with a temporary copy. A model that is not on this machine yet is assumed to be published
    in bfloat16. away: of `held`, what a streamed model has in its file. A layer goes there as it is quantised, or as a copy of a
    mapped one; weights that transformers converts go there when all are read.
    """
    if quantised:
        return held - away + 2 * 4 * largest
    if described.kind == "gguf":
        converted = 0 if dtype == torch.float32 else held
        return described.file_bytes + 4 * weights + 2 * 4 * largest + converted
    stored = torch.bfloat16 if described.kind == "unknown" else described.dtype
    return held - away if stored == dtype else described.file_bytes + held
