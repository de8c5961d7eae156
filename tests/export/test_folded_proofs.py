"""`ptune add` of other PEFT types in a chat bundle: folded with the base at hand, proved against peft's own module. The trace is
that of other tests (`support.traced_once`)."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from support.bundles import with_peft
from support.other_adapters import CUT, WITH_BASE, save_adapter
from support.tiny_models import build
from transformers import AutoModelForCausalLM

from ptune import publish
from ptune.cli import add as cli_add
from ptune.config.recipe import Backbone
from ptune.engine.decoder.engine import Engine
from ptune.errors import AdapterError, UsageError
from ptune.formats.bundle import Bundle
from ptune.formats.whole_write import sha256_of

SERVED = ["torch + peft → ONNX + adapter", "torch + peft → ONNX, (adapter − base)", "ONNX → engine"]


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat")
    build(folder / "model", "llama")
    publish.export_backbone(Backbone(model=str(folder / "model")), folder / "bundle", threads=1)
    return folder


def saved(place: Path, kind: str) -> Path:
    options = {**WITH_BASE, **CUT}[kind]
    return save_adapter(kind, options, AutoModelForCausalLM.from_pretrained(place / "model"), place / kind)


def test_it_is_proved_against_what_it_was(chat: Path) -> None:
    """An initialisation that changes the base in peft leaves the reference as it was for what follows."""
    record = publish.add(chat / "bundle", saved(chat, "lora_pissa"), "pissa", threads=1)
    assert record.parity == "measured"
    assert [hop.name for hop in record.hops[:3]] == SERVED
    assert record.folded is not None
    assert record.folded.method == "LORA (pissa)"
    assert record.folded.sha256 == sha256_of(chat / "lora_pissa" / "adapter_model.safetensors")
    assert "original/adapter_model.safetensors" in record.files
    publish.add(chat / "bundle", saved(chat, "lora_olora"), "olora", threads=1, prove_it=False)
    assert publish.verify(chat / "bundle", threads=1).passed  # one after the other on one reference
    ids = np.random.default_rng(0).integers(5, 500, 20).tolist()
    with closing(Engine.open(Bundle.open(chat / "bundle"), threads=1)) as engine:
        found = engine.logits([ids, ids], ["pissa", "olora"])
    for name, rows in zip(("pissa", "olora"), found, strict=True):
        with torch.no_grad():
            live = with_peft(chat / "model", chat / f"lora_{name}")(torch.tensor([ids])).logits[0].numpy()
        assert np.abs(live - rows).max() < 5e-4


def test_one_that_is_cut_says_what_that_changes(chat: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, before = saved(chat, "shira"), Bundle.open(chat / "bundle").manifest
    with pytest.raises(AdapterError, match="ptune add --rank N"):
        publish.add(chat / "bundle", folder, "cut", threads=1)
    with pytest.raises(UsageError, match="--rank 0: a rank is 1 or more"):
        publish.add(chat / "bundle", folder, "cut", threads=1, rank=0)
    assert Bundle.open(chat / "bundle").manifest == before
    assert (
        cli_add.run([str(chat / "bundle"), str(folder), "--name", "cut", "--rank", "40", "--threads", "1"])
        == 0
    )
    record = Bundle.open(chat / "bundle").adapter("cut")
    assert record.folded is not None
    assert record.folded.error is not None
    assert 0.01 < record.folded.error < max(record.folded.errors.values())
    assert (
        f"SHIRA is served as LoRA pairs of rank 40, which lose {record.folded.error:.2%}"
        in capsys.readouterr().out
    )
    lost, *rest = record.hops
    assert (lost.name, lost.limit, lost.passed) == ("SHIRA → rank 40", "none: --rank", True)
    assert lost.max_abs_logprob is not None
    assert lost.max_abs_logprob > 1e-2
    assert [hop.name for hop in rest[:3]] == SERVED
    assert all(hop.passed for hop in rest)
