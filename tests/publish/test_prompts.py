"""Adapters that stand before every text, on their way into a bundle: trained, exported, added, verified, refused."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support import tiny_models
from support.bundles import peft_folder, tiny_bundle
from support.prompt_adapters import Alone, save_prompt
from support.tiny_models import CONTEXT

import ptune
from ptune import publish
from ptune.config.recipe import Backbone, Data, Recipe, Train
from ptune.engine.adapters.folder import install
from ptune.errors import AdapterError, ParityError
from ptune.fine_tune import train
from ptune.formats.bundle import Bundle
from ptune.formats.whole_write import read_json
from ptune.methods.p_tuning import PTuning
from ptune.methods.prefix_tuning import PrefixTuning
from ptune.parity import log_softmax

SERVED = ["torch + peft → ONNX + adapter", "torch + peft → ONNX, (adapter − base)", "ONNX → engine"]
FEW = Train(max_steps=4, lr=3e-2, batch_size=8)


def recipe(place: Path, method: Any) -> Recipe:
    tiny_models.build(place / "model", "llama")
    tiny_models.write_jsonl(place / "data.jsonl", tiny_models.conversations(16))
    return Recipe(
        backbone=Backbone(model=str(place / "model"), dtype="float32"),
        method=method,
        data=Data(files=(place / "data.jsonl",), validation_share=0.3),
        train=FEW,
    )


def test_a_run_is_exported_and_others_are_added_beside_it(tmp_path: Path) -> None:
    run = train(recipe(tmp_path, PTuning(num_virtual_tokens=4)), tmp_path / "run")
    proof = publish.export_run(
        run, tmp_path / "bundle", name="x", threads=1, profiles=("fp32", "int8"), cache="int8", anyway=True
    )
    assert proof.passed
    assert {*SERVED} <= {hop.name for hop in proof.adapters["x"]}
    other = save_prompt(tmp_path / "model", tmp_path / "other", "prefix", seed=3)
    record = publish.add(tmp_path / "bundle", other, "other", threads=1)
    assert (record.virtual_tokens, record.rank, record.parity) == (5, 0, "measured")
    assert "prefix.safetensors" in record.files
    prompt = [5, 60, 7, 8, 300]
    with closing(ptune.load(tmp_path / "bundle", threads=1)) as model:
        for name, folder in {"x": run.adapter_path, "other": other}.items():
            (found,) = model.engine.logits([prompt], [name])
            expected = log_softmax(Alone(tmp_path / "model", folder).logits(prompt))
            assert np.abs(log_softmax(found) - expected).max() < 5e-4
        answer = model.chat("Hello", adapter="other", max_tokens=3)
        assert answer.usage.prompt_tokens == len(model.encode_chat([{"role": "user", "content": "Hello"}]))
    assert publish.verify(tmp_path / "bundle", threads=1).passed


def test_a_trained_prefix_is_exported(tmp_path: Path) -> None:
    run = train(recipe(tmp_path, PrefixTuning(num_virtual_tokens=3)), tmp_path / "run")
    assert publish.export_run(run, tmp_path / "bundle", name="x", threads=1, anyway=True).passed


def test_what_does_not_fit_is_refused_in_a_sentence(tmp_path: Path) -> None:
    base, _, bundle = tiny_bundle(tmp_path)
    prefix, prompt = (save_prompt(base, tmp_path / kind, kind) for kind in ("prefix", "prompt"))
    install(bundle, prefix, "from_the_file_alone")
    with pytest.raises(
        AdapterError, match=r"PROMPT_TUNING, .* take the base.s weights: add it with `ptune add`"
    ):
        install(bundle, prompt, "x")

    def changed(name: str, tensors: dict[str, Any], **fields: Any) -> Path:
        folder = shutil.copytree(prefix, tmp_path / name)
        save_file(tensors, folder / "adapter_model.safetensors")
        config = read_json(folder / "adapter_config.json") | fields
        (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
        return folder

    own = load_file(prefix / "adapter_model.safetensors")["prompt_embeddings"]
    for name, tensors, fields, reason in (
        ("narrow", own[:, :100].copy(), {}, r"its prefix is \[5, 100\], but .* are 128 a token"),
        ("fewer", own[:3], {}, r"its virtual tokens are \[3, 128\], adapter_config.json has 5"),
        ("infinite", own * np.float32(np.inf), {}, "not finite"),
        (
            "long",
            np.tile(own, (CONTEXT, 1)),
            {"num_virtual_tokens": 5 * CONTEXT},
            f"leave no room in a context of {CONTEXT}",
        ),
    ):
        with pytest.raises(AdapterError, match=reason):
            install(bundle, changed(name, {"prompt_embeddings": tensors}, **fields), "x")
    with pytest.raises(AdapterError, match="it holds tensors beside its virtual tokens: more"):
        install(bundle, changed("more", {"prompt_embeddings": own, "more": own}), "x")
    with pytest.raises(AdapterError, match="it holds no virtual tokens"):
        install(bundle, changed("other", {"embeddings": own}), "x")


def test_keys_and_values_that_are_not_the_adapters_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proof compares with peft's own prompt, whatever the file beside it says; and a stray file beside a LoRA is no prefix."""
    base, _, bundle = tiny_bundle(tmp_path)
    from ptune.codecs.chat import ChatCodec
    from ptune.publish import base_weights
    from ptune.verify.decoder import probes as probing

    probing.save(probing.of_examples([], ChatCodec.open(bundle.codec_path)), bundle.folder)
    from ptune.backbone.prompt_cache import prompt_cache as right

    monkeypatch.setattr(
        base_weights,
        "prompt_cache",
        lambda *one: [(key, value * np.float32(1.5)) for key, value in right(*one)],
    )
    with pytest.raises(ParityError):
        publish.add(bundle.folder, save_prompt(base, tmp_path / "prompt", "prompt"), "x", threads=1)
    lora = peft_folder(base, tmp_path / "lora")
    save_file({"past_key.0": np.zeros((2, 3, 16), np.float32)}, lora / "prefix.safetensors")
    record = install(Bundle.open(bundle.folder), lora, "lora")
    assert (record.rank, record.virtual_tokens) == (4, 0)


def test_an_adapter_with_an_invocation_is_added(tmp_path: Path) -> None:
    base, _, _ = tiny_bundle(tmp_path)
    publish.export_backbone(Backbone(model=str(base)), tmp_path / "b", threads=1)
    folder = peft_folder(base, tmp_path / "judge", spread=0.3, alora_invocation_tokens=[40, 41])
    record = publish.add(tmp_path / "b", folder, "judge", threads=1)
    assert (record.parity, record.invocation, record.in_sums) == ("measured", (40, 41), False)
    hops = {hop.name: hop for hop in record.hops}
    assert {*SERVED} <= {*hops}, [*hops]
    assert all(hop.passed for hop in record.hops)
    assert not (tmp_path / "b" / "adapters" / "judge" / "parity.json").exists()
    ids = [5, 6, 7, 40, 41, 9, 300]
    with closing(ptune.load(tmp_path / "b", threads=1)) as model:
        (found,) = model.engine.logits([ids], ["judge"])
    expected = log_softmax(Alone(base, folder).logits(ids))
    assert np.abs(log_softmax(found) - expected).max() < 5e-4
