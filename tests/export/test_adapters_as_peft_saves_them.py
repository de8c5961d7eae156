"""Whatever peft can say of a LoRA is served as peft computes it, or refused by name, all reasons in one error."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.bundles import peft_folder, tiny_bundle, with_peft
from support.tiny_models import VOCAB, build

from ptune.engine.adapters.folder import install
from ptune.engine.decoder.engine import Engine
from ptune.errors import AdapterError
from ptune.formats.bundle import Bundle
from ptune.parity import log_softmax

SERVED: dict[str, dict[str, Any]] = {
    "rank_pattern": {"rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.up_proj": 7}},
    "alpha_pattern": {"alpha_pattern": {"down_proj": 3, r"^model\.layers\.0\.self_attn\.v_proj": 11}},
    "layers_to_transform": {"target_modules": ["q_proj", "o_proj"], "layers_to_transform": [1]},
    "rslora": {"use_rslora": True},
    "subset": {"target_modules": ["gate_proj"]},
    "regex": {"target_modules": r".*\.1\.self_attn\.(q|k)_proj"},
    "both_patterns": {"rank_pattern": {"k_proj": 1}, "alpha_pattern": {"k_proj": 5}, "use_rslora": True},
}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "dora": ({"use_dora": True}, "DoRA"),
    "bias": ({"bias": "lora_only"}, "bias"),
    "modules_to_save": ({"modules_to_save": ["lm_head"]}, "modules"),
    "head": ({"target_modules": ["lm_head", "q_proj"]}, "head"),
    "embedding": ({"target_modules": ["embed_tokens", "q_proj"]}, "embedding"),
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Bundle]:
    base, _, bundle = tiny_bundle(
        tmp_path_factory.mktemp("llama"), attention_bias=True
    )  # so that there is a bias to train
    return base, bundle


@pytest.mark.parametrize("kind", SERVED)
def test_served_as_peft_computes_it(kind: str, llama: tuple[Path, Bundle], tmp_path: Path) -> None:
    base, bundle = llama
    folder = peft_folder(base, tmp_path / kind, spread=0.3, **SERVED[kind])
    install(bundle, folder, kind)
    ids = np.random.default_rng(1).integers(5, VOCAB, 20).tolist()
    with closing(Engine.open(bundle, threads=1, replay_golden=False)) as engine:
        (found,) = engine.logits([ids], [kind])
    with torch.no_grad():
        expected = with_peft(base, folder)(torch.tensor([ids])).logits[0].numpy()
        plain = with_peft(base, None)(torch.tensor([ids])).logits[0].numpy()
    assert np.abs(log_softmax(expected) - log_softmax(found)).max() < 5e-4
    assert np.abs(expected - plain).max() > 0.02


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_by_name(kind: str, llama: tuple[Path, Bundle], tmp_path: Path) -> None:
    base, bundle = llama
    options, word = REFUSED[kind]
    folder = peft_folder(base, tmp_path / kind, **options)
    before = bundle.manifest
    with pytest.raises(AdapterError, match=word):
        install(bundle, folder, kind)
    assert Bundle.open(bundle.folder).manifest == before
    assert not bundle.adapter_path(kind).exists()


def test_all_mismatches_in_one_error(llama: tuple[Path, Bundle], tmp_path: Path) -> None:
    other = build(tmp_path / "wider", "llama", hidden_size=32, intermediate_size=64, num_hidden_layers=3)
    folder = peft_folder(other, tmp_path / "wide", modules_to_save=["lm_head"])
    with pytest.raises(AdapterError) as caught:
        install(llama[1], folder, "wide")
    for word in ("modules", "[4, 32]", "[4, 64]", "model.layers.2.self_attn.q_proj"):
        assert word in str(caught.value)
