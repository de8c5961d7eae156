"""Heads wider than onnxruntime's products sum at once: a sequence has the same bits however short it is when a token is computed."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from support.bundles import tiny_bundle
from support.tiny_models import VOCAB

from ptune.engine.decoder.engine import Engine
from ptune.formats.bundle import BASE, FP32
from ptune.verify.decoder import company


@pytest.mark.parametrize("width", [136, 192, 256])  # DeepSeek's heads are 192 wide, Gemma's and Qwen3.5's 256
def test_the_same_bits_however_it_is_cut(width: int, tmp_path: Path) -> None:
    _, _, bundle = tiny_bundle(tmp_path, "llama", head_dim=width, num_hidden_layers=1)
    ids = np.random.default_rng(0).integers(5, VOCAB, 150).tolist()
    moved, _ = company.in_pieces(bundle, FP32, [ids], threads=1)
    assert moved == 0
    found = []
    for chunk in (256, 7):
        with closing(
            Engine.open(bundle, threads=1, prefill_chunk=chunk, kernels="off", replay_golden=False)
        ) as engine:
            found.append(engine.logits([ids, ids[:5], ids[:40]], [BASE] * 3))
    for whole, cut in zip(*found, strict=True):
        assert np.array_equal(whole, cut)
