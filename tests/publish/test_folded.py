"""`ptune add` of other PEFT types in bundles of encoders, heads and all, and of encoder-decoders."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.encoder_bundles import SENTIMENT, build_encoder, encoder_bundle, plain, torch_logits, with_peft
from support.other_adapters import EXACT, WITH_BASE, save_adapter
from support.seq2seq_bundles import make
from transformers import AutoModelForSeq2SeqLM

from ptune import publish
from ptune.config.recipe import Backbone
from ptune.engine.encoder.batch import Item
from ptune.engine.encoder.engine import EncoderEngine
from ptune.engine.encoder.golden import load_inputs
from ptune.errors import UsageError
from ptune.formats.bundle import Bundle
from ptune.verify.encoder.torch_side import reference

SERVED = ["torch + peft → ONNX + adapter", "torch + peft → ONNX, (adapter − base)", "ONNX → engine"]


def test_an_encoders_adapter_with_its_head(tmp_path: Path) -> None:
    base = build_encoder(tmp_path / "base")
    folders = {kind: encoders(base, tmp_path / kind, kind) for kind in ("hra", "loha", "vera")}
    bundle = encoder_bundle(tmp_path / "bundle", base, {"loha": folders["loha"], "vera": folders["vera"]})
    record = publish.add(bundle.folder, folders["hra"], "hra", threads=1)
    assert record.parity == "measured"
    assert [hop.name for hop in record.hops[:3]] == SERVED
    bundle = Bundle.open(bundle.folder)
    assert [bundle.adapter(name).rank for name in folders] == [4, 9, 7]
    inputs = load_inputs(bundle.folder)[:5]
    items = [Item(one, name) for one in inputs for name in folders]
    with closing(EncoderEngine.open(bundle, threads=1)) as engine:
        found = engine.logits(items)
    expected = {name: with_peft(base, folder, SENTIMENT) for name, folder in folders.items()}
    for item, here in zip(items, found, strict=True):
        assert np.abs(torch_logits(expected[item.adapter], dict(item.inputs)) - here).max() < 5e-4
    with pytest.raises(UsageError, match=r"--rank 4: .* is not of a chat model"):
        publish.add(bundle.folder, folders["hra"], "again", threads=1, rank=4)


def encoders(base: Path, folder: Path, kind: str) -> Path:
    more: dict[str, Any] = {
        "task_type": "SEQ_CLS",
        "target_modules": ["query", "value", "intermediate.dense"],
        "modules_to_save": ["classifier"],
    }
    save_adapter(kind, {**EXACT, **WITH_BASE}[kind], plain(base, SENTIMENT), folder, **more)
    identity = reference(Backbone(model=str(base)), SENTIMENT).identity
    SENTIMENT.model_copy(update={"base": identity.hash, "head": ("classifier",)}).save(folder)
    return folder


def test_an_encoder_decoders_adapter(tmp_path: Path) -> None:
    kind, made = "hra", make(tmp_path, "t5")
    options, model = {**EXACT, **WITH_BASE}[kind], AutoModelForSeq2SeqLM.from_pretrained(made.model)
    folder = save_adapter(kind, options, model, tmp_path / kind, task_type="SEQ_2_SEQ_LM")
    record = publish.add(made.bundle.folder, folder, kind, threads=1)
    assert record.parity == "measured"
    assert record.folded is not None
    assert [hop.name for hop in record.hops[:3]] == SERVED
    assert all(hop.passed for hop in record.hops)
