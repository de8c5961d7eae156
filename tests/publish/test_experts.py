"""Mixtures of experts the whole way: trained on quantised experts or on experts themselves, exported, proved, or refused in time."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from support import tiny_models

from ptune import publish
from ptune.config.recipe import Backbone, Data, Recipe, Train
from ptune.engine import memory
from ptune.engine.decoder.engine import Engine
from ptune.errors import UsageError
from ptune.fine_tune import train
from ptune.formats.bundle import BASE, Bundle
from ptune.formats.run import Run
from ptune.methods.lora import Lora
from ptune.parity import log_softmax
from ptune.publish import room

IDS = [5, 9, 14, 200, 31, 7, 90, 41]


def trained(place: Path, method: Lora, **backbone: Any) -> Run:
    tiny_models.build(place / "model", "mixtral")
    tiny_models.write_jsonl(place / "data.jsonl", tiny_models.conversations(16))
    recipe = Recipe(
        backbone=Backbone(model=str(place / "model"), dtype="float32", **backbone),
        method=method,
        data=Data(files=(place / "data.jsonl",), validation_share=0.3),
        train=Train(max_steps=4, lr=1e-2, batch_size=8),
    )
    return train(recipe, place / "run")


def test_an_update_of_experts_is_proved_merged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")
    run = trained(tmp_path, Lora(r=2, target_modules=("q_proj",), target_parameters=weights))
    said = capsys.readouterr().err
    assert "adapters of Lora with dora or target_parameters are served merged" in said
    with pytest.raises(UsageError, match="add --merge"):
        publish.export_run(run, tmp_path / "bundle", name="x", threads=1, anyway=True)
    proof = publish.export_run(run, tmp_path / "bundle", name="x", merge=True, threads=1, anyway=True)
    assert proof.passed
    assert "live adapter → merged" in {hop.name for hop in proof.hops}
    base = tiny_models.model("mixtral")
    with torch.no_grad():
        plain = base(torch.tensor([IDS])).logits[0].numpy()
        live = PeftModel.from_pretrained(base, str(run.adapter_path)).eval()
        expected = live(torch.tensor([IDS])).logits[0].numpy()
    with closing(Engine.open(Bundle.open(tmp_path / "bundle"), threads=1)) as engine:
        (found,) = engine.logits([IDS], [BASE])
    assert np.abs(log_softmax(expected) - log_softmax(found)).max() < 5e-4
    assert np.abs(log_softmax(expected) - log_softmax(plain)).max() > 1e-2


def test_quantised_experts_are_trained_on_exported_and_proved(tmp_path: Path) -> None:
    run = trained(tmp_path, Lora(r=4), quantize="nf4")
    out = tmp_path / "bundle"
    assert publish.export_run(run, out, name="x", threads=1, anyway=True, profiles=("nf4",)).passed
    bundle = Bundle.open(out)
    assert {*bundle.manifest.graphs} == {"nf4"}
    assert all(hop.passed for hop in bundle.adapter("x").hops)


def test_what_no_memory_holds_is_refused_with_both_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tiny_models.build(tmp_path / "model", "mixtral")
    publish.export_backbone(Backbone(model=str(place)), tmp_path / "bundle", threads=1)
    weights = sum(weight.numel() for weight in tiny_models.model("mixtral").parameters())
    layers = 4 * weights - 4 * tiny_models.VOCAB * 64  # all but the embedding, which is not multiplied by
    monkeypatch.setattr(memory, "most_bytes", lambda: layers // 2)
    said = r"takes \d+\.\d GB of memory for its weights alone, predicted, and there are \d+\.\d GB in all: export"
    with pytest.raises(UsageError, match=said):
        Engine.open(tmp_path / "bundle", threads=1)
    monkeypatch.setattr(memory, "most_bytes", lambda: 2 * layers)
    Engine.open(tmp_path / "bundle", threads=1).close()
    monkeypatch.setattr(room, "most_bytes", lambda: layers // 2)
    with pytest.raises(
        UsageError, match=r"whose graph in fp32 takes .* GB of memory to be proved, predicted"
    ):
        publish.export_backbone(Backbone(model=str(place)), tmp_path / "other", threads=1)
    assert not (tmp_path / "other").exists()
