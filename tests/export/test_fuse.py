"""Fusing changes operators, not numbers: each rule is found where it should be, and what is not recognised stays right."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx_ir
import pytest
from support import tiny_models
from support.tiny_models import VOCAB

from ptune.export.fuse import fuse
from ptune.export.trace import trace
from ptune.export.weights import ModelWeights, attach
from ptune.formats.signature import Signature
from ptune.verify.graph import PlainGraph
from ptune.verify.reference import random_factors

LAYERS = 2
EVERYTHING = {
    "fuse_rotary": 2 * LAYERS, "fuse_rms_norms": 2 * LAYERS + 1, "fuse_skips": 2 * LAYERS, "fuse_silu": LAYERS,
    "pack": 2 * LAYERS,
}  # fmt: skip
FOUND = {
    "llama": EVERYTHING,
    "qwen3": {**EVERYTHING, "fuse_rms_norms": 4 * LAYERS + 1},  # norms of queries and keys
    "phi3": {**EVERYTHING, "pack": 0},  # has its products packed already
    "gpt2": {"fuse_rotary": 0, "fuse_rms_norms": 0, "fuse_skips": 0, "fuse_silu": 0, "pack": 0},
    "phi": {"fuse_rotary": 0},  # turns a part of each head: left as it is
    "cohere": {"fuse_rotary": 0},  # turns neighbours, not halves
}


@pytest.mark.parametrize("family", FOUND)
def test_the_same_numbers(family: str, tmp_path: Path) -> None:
    model = tiny_models.model(family)
    traced = trace(model.config)
    attach(traced, ModelWeights(model))
    signature = traced.signature
    assert isinstance(signature, Signature)
    onnx_ir.save(traced.graph, tmp_path / "plain.onnx")
    found = fuse(traced.graph)
    assert {name: found[name] for name in FOUND[family]} == FOUND[family]
    onnx_ir.save(traced.graph, tmp_path / "fused.onnx")
    ids = np.random.default_rng(0).integers(5, VOCAB, 40).tolist()
    plain, fused = (PlainGraph(tmp_path / f"{name}.onnx", signature, 1) for name in ("plain", "fused"))
    factors = random_factors(signature, 3, 0, 0.3)
    bare = plain.logprobs(ids, range(40))
    assert np.abs(bare - fused.logprobs(ids, range(40))).max() < 1e-4
    plugged = plain.logprobs(ids, range(40), factors)
    assert np.abs(plugged - fused.logprobs(ids, range(40), factors)).max() < 1e-4
    assert np.abs(plugged - bare).max() > 0.1, "the factors must do something, or this test proves nothing"


def test_little_is_left() -> None:
    model = tiny_models.model("llama")
    traced = trace(model.config)
    attach(traced, ModelWeights(model))
    before = len(traced.graph.graph)
    fuse(traced.graph)
    kinds = Counter(node.op_type for node in traced.graph.graph)
    assert len(traced.graph.graph) < before / 3
    assert not kinds["GatherND"] - 1, "attention gathers whole tokens; the wanted ones are gathered once"
    assert kinds["Transpose"] < 6
    assert kinds["Constant"] == 0
