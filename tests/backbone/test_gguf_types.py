"""A GGUF file's tensors are read in every type that gguf-py dequantises, as it does."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from support import gguf_file, tiny_models

from ptune.backbone.load import load
from ptune.config.recipe import Backbone

TYPES = [
    Type.F16, Type.BF16, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0, Type.Q2_K, Type.Q3_K, Type.Q4_K, Type.Q5_K,
    Type.Q6_K, Type.TQ1_0, Type.TQ2_0, Type.MXFP4, Type.IQ4_NL, Type.IQ4_XS, Type.IQ2_XXS, Type.IQ2_XS, Type.IQ2_S,
    Type.IQ3_XXS, Type.IQ3_S, Type.IQ1_S, Type.IQ1_M,
]  # fmt: skip
ROWS, WIDTH = 64, 256


def any_bytes(kind: Type) -> np.ndarray:
    """Rows of a type. A byte below 0x3c is no part of a number that is infinite or none, where it is one of float16."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    shape = (ROWS, WIDTH // block * size)
    return np.random.default_rng(int(kind)).integers(0, 0x3C, shape, dtype=np.uint8)


def test_every_type(tmp_path: Path) -> None:
    stored = {f"blk.{number}.ffn_down.weight": (any_bytes(kind), kind) for number, kind in enumerate(TYPES)}
    model = tiny_models.model("llama", num_hidden_layers=len(TYPES), intermediate_size=WIDTH)
    gguf_file.write(tmp_path / "types.gguf", model=model, stored=stored)
    loaded = load(Backbone(model=str(tmp_path / "types.gguf"), dtype="float32")).model
    for number, kind in enumerate(TYPES):
        data, _ = stored[f"blk.{number}.ffn_down.weight"]
        expected = gguf.quants.dequantize(data, kind)
        assert np.isfinite(expected).all()
        assert len(np.unique(expected)) > 1
        found = loaded.model.layers[number].mlp.down_proj.weight
        assert torch.equal(found, torch.from_numpy(np.ascontiguousarray(expected))), kind.name
