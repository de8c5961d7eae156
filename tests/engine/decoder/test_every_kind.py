"""One bundle with adapters of every kind: sixteen mixed streams are each what peft computes of that adapter alone."""

from __future__ import annotations

import copy
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.bundles import peft_folder, tiny_bundle
from support.other_adapters import save_adapter
from support.prompt_adapters import Alone, save_prompt

from ptune.engine.adapters.folder import install
from ptune.engine.decoder.engine import Engine
from ptune.engine.decoder.request import Request
from ptune.engine.options import KernelChoice
from ptune.engine.sampling import Sampling
from ptune.formats.bundle import BASE, Bundle
from ptune.parity import log_softmax
from ptune.publish.base_weights import base_weights

LIMIT = 5e-4  # of a log-probability
LAYERS: dict[str, Any] = {"target_modules": ["q_proj", "v_proj", "down_proj"]}
OF_PEFT: dict[str, tuple[str, dict[str, Any]]] = {
    "dora": ("lora", {"r": 3, "lora_alpha": 7, "use_dora": True, "init_lora_weights": False, **LAYERS}),
    "ia3": ("ia3", {**LAYERS, "feedforward_modules": ["down_proj"]}),
    "road": ("road", {"variant": "road_1", "group_size": 16, **LAYERS}),
    "biased": ("lora", {"r": 2, "lora_bias": True, "init_lora_weights": False, **LAYERS}),
    "vera": ("vera", {"r": 4, **LAYERS}),  # folded
}
SUM = "lora+0.5*other"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, dict[str, Alone]]:
    place = tmp_path_factory.mktemp("every")
    base, loaded, bundle = tiny_bundle(place, ends=("biases", "gains", "turns"), turn_group=16)
    folders: dict[str, Path] = {
        "lora": peft_folder(base, place / "lora", seed=1, spread=0.3),
        "other": peft_folder(base, place / "other", seed=2, r=2, use_rslora=True),
    }
    for seed, (name, (kind, more)) in enumerate(OF_PEFT.items()):
        folders[name] = save_adapter(kind, more, copy.deepcopy(loaded.model), place / name, seed=seed)
    for seed, kind in enumerate(("prefix", "prompt")):
        folders[kind] = save_prompt(base, place / kind, kind, seed=seed)
    for name, folder in folders.items():
        install(bundle, folder, name, base_weights(bundle, lambda: loaded.model))
    alone = {BASE: Alone(base, None), **{name: Alone(base, folder) for name, folder in folders.items()}}
    alone[SUM] = Alone(base, None, (folders["lora"], 1.0), (folders["other"], 0.5))
    return bundle, alone


@pytest.mark.parametrize("kernels", ["off", "own"])
def test_sixteen_mixed_streams_are_what_peft_says(
    made: tuple[Bundle, dict[str, Alone]], kernels: KernelChoice
) -> None:
    bundle, alone = made
    random, names = np.random.default_rng(5), [*alone, *list(alone)[:5]]
    assert len(names) == 16
    ids = [random.integers(5, 600, int(random.integers(2, 30))).tolist() for _ in names]
    asked = [
        Request(tuple(prompt), name, Sampling(temperature=0), max_tokens=5)
        for prompt, name in zip(ids, names, strict=True)
    ]
    with closing(
        Engine.open(bundle, threads=1, max_rows=16, prefill_chunk=8, kernels=kernels, replay_golden=False)
    ) as engine:
        found, said = engine.logits(ids, names), engine.generate_all(asked)
    bare = [log_softmax(alone[BASE].logits(prompt)) for prompt in ids]
    for name, prompt, rows, tokens, plain in zip(names, ids, found, said, bare, strict=True):
        expected = log_softmax(alone[name].logits(prompt))
        assert np.abs(log_softmax(rows) - expected).max() < LIMIT, name
        assert name == BASE or np.abs(expected - plain).max() > 20 * LIMIT, name
        assert [token.id for token in tokens] == alone[name].greedy(prompt, 5), name
