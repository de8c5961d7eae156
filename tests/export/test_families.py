"""Every decoder family: transformers and peft against the exported graph in the engine, adapters mixed in a batch."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.bundles import peft_folder, tiny_bundle, with_peft
from support.tiny_models import ALL, VOCAB, adapted

from ptune.engine.adapters.folder import install
from ptune.engine.decoder.engine import Engine
from ptune.formats.bundle import BASE, FP32
from ptune.parity import log_softmax
from ptune.verify.decoder import company

LIMIT = 5e-4
# Partly turned heads, layer norms and biases as phi has them, gates as llama's; DeepSeek V2's caches are minicpm3's. Run with the long forms.
NOTHING_OF_THEIR_OWN = ("stablelm", "starcoder2", "deepseek_v2")
# What test_ends.py holds to peft, base and plain adapters among the rest, and to any company; run without sockets at the ends at night.
WITH_ENDS = ("llama_tied", "gemma", "gemma2", "gemma3", "phi", "gpt2", "granite", "cohere", "opt")
# Mixers of state spaces that add nothing to those of the others.
ALIKE = (
    "zamba2",
    "bailing_hybrid",
    "qwen3_5_moe_text",
    "olmo_hybrid",
    "bamba",
    "nemotron_h",
    "mamba",
    "falcon_mamba",
    "jamba",
    "granitemoehybrid",
    "granitemoehybrid_experts",
    "qwen3_next",
)
# Layers that are all alike: one is traced in half the time, and layers that follow each other are those of the others.
OF_ONE_LAYER = ("falcon_h1", "mamba2")
LENGTHS = (37, 23, 12)  # past the sliding windows of 8; prefilled in chunks of 10


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(
            family, marks=pytest.mark.slow if family in (*NOTHING_OF_THEIR_OWN, *WITH_ENDS, *ALIKE) else ()
        )
        for family in ALL
    ],
)
def test_engine_equals_transformers_and_peft(family: str, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"num_hidden_layers": 1} if family in OF_ONE_LAYER else {}
    base, _loaded, bundle = tiny_bundle(tmp_path, family, **changes)
    where = {"target_modules": adapted(family)}
    adapters = {
        "four": peft_folder(base, tmp_path / "four", r=4, seed=1, spread=0.2, **where),
        "two": peft_folder(base, tmp_path / "two", r=2, lora_alpha=3, seed=2, spread=0.2, **where),
    }
    for name, folder in adapters.items():
        install(bundle, folder, name)
    names = ["four", "two", BASE]
    random = np.random.default_rng(0)
    ids = [random.integers(5, VOCAB, length).tolist() for length in LENGTHS]
    with closing(Engine.open(bundle, threads=1, prefill_chunk=10, replay_golden=False)) as engine:
        found = engine.logits(ids, names)
        (crowded,) = (logits for logits, name in zip(found, names, strict=True) if name == BASE)
    with closing(Engine.open(bundle, threads=1, prefill_chunk=64, replay_golden=False)) as engine:
        (alone,) = engine.logits([ids[-1]], [BASE])
    assert np.array_equal(alone, crowded), "neighbours or chunks change a sequence's bits"
    hop = company.hop(
        bundle, FP32, ids, threads=1
    )  # many chunkings, a neighbour at the context's end, a cached prefix
    assert hop.passed, hop.note
    moved, bare = [], with_peft(base, None)
    for sequence, name, logits in zip(ids, names, found, strict=True):
        tuned = with_peft(base, adapters[name]) if name in adapters else bare
        with torch.no_grad():
            expected, plain = (model(torch.tensor([sequence])).logits[0].numpy() for model in (tuned, bare))
        assert np.abs(log_softmax(expected) - log_softmax(logits)).max() < LIMIT, name
        moved.append(float(np.abs(expected - plain).max()))
    assert min(moved[:2]) > 0.1, "the adapters must move the logits, or this test proves nothing"
    assert moved[2] == 0
