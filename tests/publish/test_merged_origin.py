"""A merged folder says what it was made of; without the adapter it is the base that it names."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from support import chat_run
from support.tiny_models import build

from ptune import publish
from ptune.backbone.load import load
from ptune.config.recipe import Backbone


def test_the_adapter_can_be_taken_out_again(tmp_path: Path) -> None:
    build(tmp_path / "model", "llama")
    run = chat_run.trained(tmp_path)
    publish.merge_run(run, tmp_path / "merged")
    record = json.loads((tmp_path / "merged" / "merged.json").read_text())
    base = load(Backbone(model=record["base"]["source"], dtype="float32"))
    assert base.identity.hash == record["base"]["hash"]
    adapter = run.adapter_path / "adapter_model.safetensors"
    assert record["adapter"]["sha256"] == hashlib.sha256(adapter.read_bytes()).hexdigest()
    card = (tmp_path / "merged" / "README.md").read_text()
    assert record["base"]["hash"] in card
    assert record["adapter"]["sha256"] in card
    factors = load_file(adapter)
    merged, before = load_file(tmp_path / "merged" / "model.safetensors"), base.model.state_dict()
    scale = 32 / 4  # alpha / r
    for name in [name for name in factors if ".lora_A." in name]:
        module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        update = scale * factors[name.replace("lora_A", "lora_B")] @ factors[name]
        left = merged[f"{module}.weight"] - update - before[f"{module}.weight"]
        assert update.abs().max() > 1e-3
        assert left.abs().max() < 1e-6
    assert torch.equal(merged["model.embed_tokens.weight"], before["model.embed_tokens.weight"])
