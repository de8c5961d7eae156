"""A config that ties a head which the files hold weights of its own for."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from support.tiny_models import build
from transformers import AutoModelForCausalLM

from ptune import publish
from ptune.backbone.load import load
from ptune.config.recipe import Backbone


def test_a_head_that_was_trained_apart_is_served_as_transformers_reads_it(tmp_path: Path) -> None:
    folder = build(tmp_path / "model", "llama_tied")
    weights = load_file(folder / "model.safetensors")
    head = torch.randn(weights["model.embed_tokens.weight"].shape, generator=torch.Generator().manual_seed(1))
    save_file({**weights, "lm_head.weight": 0.2 * head}, folder / "model.safetensors", {"format": "pt"})
    loaded = load(Backbone(model=str(folder))).model
    ids = torch.arange(5, 40)[None]
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(folder)(ids).logits
        assert torch.equal(loaded(ids).logits, expected)
    assert not loaded.config.tie_word_embeddings
    assert publish.export_backbone(Backbone(model=str(folder)), tmp_path / "bundle", threads=1).passed


def test_a_head_without_weights_stays_tied(tmp_path: Path) -> None:
    loaded = load(Backbone(model=str(build(tmp_path / "model", "llama_tied")))).model
    assert loaded.config.tie_word_embeddings
