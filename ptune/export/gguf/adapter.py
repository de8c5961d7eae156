"""Writes a LoRA adapter in PEFT's format as llama.cpp's LoRA in GGUF."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from ptune.errors import UsageError
from ptune.export.gguf.families import Family, heads_of, order_of, ordered
from ptune.export.gguf.write import Names, finish

Pair = tuple[NDArray[np.float32], NDArray[np.float32]]
Layers = Mapping[str, tuple[Pair, float]]
"""transformers' name of a linear layer -> (A [rank, in], B [out, rank]) and the scale of their product."""

_FACTOR = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")


def layers_of(
    tensors: Mapping[str, NDArray[Any]], scale_of: Mapping[str, float]
) -> dict[str, tuple[Pair, float]]:
    """A file's pairs. scale_of: layer -> scale, as peft computes it.

    Raises: UsageError for what llama.cpp's adapters cannot hold.
    """
    sides: dict[str, dict[str, NDArray[np.float32]]] = {}
    for name, tensor in tensors.items():
        if name.endswith(".lm_head.base_layer.weight"):
            continue  # a copy of the base's, which peft saves beside factors of the head
        found = _FACTOR.fullmatch(name)
        if found is None:
            raise UsageError(
                f"--gguf: the adapter brings {name.removeprefix('base_model.model.')}, which llama.cpp's adapters cannot"
                " hold: add --merge"
            )
        sides.setdefault(found[1], {})[found[2]] = tensor.astype(np.float32)
    return {layer: ((side["A"], side["B"]), scale_of[layer]) for layer, side in sides.items()}


def write_adapter(path: Path, layers: Layers, config: Any, family: Family, name: str) -> None:
    """Writes the file, in float32.

    llama.cpp multiplies every pair by alpha / rank, with one alpha. So alpha is the first layer's scale times its rank, whatever
    rule made that scale (rsLoRA's, too), and the B of a layer with another scale takes up the difference.
    """
    names, writer = Names(config, family), gguf.GGUFWriter(path, family.architecture)
    writer.add_type("adapter")
    writer.add_name(name)
    writer.add_string("adapter.type", "lora")
    (first, _), scale = next(iter(layers.values()))
    alpha = scale * len(first)
    writer.add_float32("adapter.lora.alpha", alpha)
    for layer, ((down, up), own) in layers.items():
        place, order = names.of(f"{layer}.weight"), order_of(f"{layer}.weight", family, 2)
        if place == "output.weight" and config.tie_word_embeddings:
            raise UsageError("--gguf: the adapter changes a head that is tied to the embedding: add --merge")
        if order == "rotary":  # B's rows are the weight's
            up = ordered(up, order, heads_of(f"{layer}.weight", config))
        if (share := own * len(down) / alpha) != 1:
            up = up * np.float32(share)
        writer.add_tensor(f"{place}.lora_a", np.ascontiguousarray(down))
        writer.add_tensor(f"{place}.lora_b", np.ascontiguousarray(up))
    finish(writer)
