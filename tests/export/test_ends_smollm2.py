"""The real default model: its head, its embedding, new tokens and biases, each by an adapter of its own, in one batch."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.end_adapters import ends_folder, peft_logits
from support.smollm2 import require as require_smollm2

from ptune.backbone.load import load
from ptune.backbone.tokenizer import transformers_tokenizer
from ptune.config.recipe import Backbone
from ptune.engine.adapters.folder import install
from ptune.engine.decoder.engine import Engine
from ptune.export.weights import ModelWeights
from ptune.export.write import write_bundle
from ptune.formats.bundle import BASE
from ptune.formats.signature import END_KINDS
from ptune.parity import log_softmax
from ptune.verify.limits import MAX_ABS_LOGPROB

TEXT = "The quick brown fox jumps over the lazy dog, and a moral is drawn from it."
NEW = ("<ask>", "<say>")


@pytest.mark.slow
def test_all_ends_of_the_real_model_are_what_peft_computes(tmp_path: Path) -> None:
    require_smollm2()
    base = tmp_path / "base"
    loaded = load(Backbone(), device="cpu")
    loaded.model.save_pretrained(base)
    transformers_tokenizer(loaded.codec).save_pretrained(base)
    model, codec = loaded.model, loaded.codec
    bundle = write_bundle(
        tmp_path / "bundle", model.config, ModelWeights(model), codec, loaded.identity, ends=END_KINDS
    )
    vocab = bundle.decoder.vocab_size
    small: dict[str, Any] = {"r": 4, "lora_alpha": 1}
    made = {
        "ends": (ends_folder(base, tmp_path / "ends", ends=["head", "embedding"], **small), vocab),
        "tokens": (ends_folder(base, tmp_path / "tokens", new=NEW, seed=1, **small), vocab + len(NEW)),
        "biased": (ends_folder(base, tmp_path / "biased", seed=2, lora_bias=True, **small), vocab),
    }
    for name, (folder, _) in made.items():
        install(bundle, folder, name)
    text = codec.encode_text(TEXT)
    ids = {name: [*text] for name in (*made, BASE)}
    ids["tokens"][3::4] = [vocab + at % 2 for at in range(len(text[3::4]))]
    with closing(Engine.open(bundle, threads=1, prefill_chunk=10, replay_golden=False)) as engine:
        (alone,) = engine.logits([ids[BASE]], [BASE])
        found = dict(zip(ids, engine.logits([*ids.values()], [*ids]), strict=True))
    assert np.array_equal(found[BASE], alone)
    plain = log_softmax(peft_logits(base, None, text))
    for name, tokens in ids.items():
        adapter = made[name][0] if name in made else None
        expected = log_softmax(peft_logits(base, adapter, tokens, len(found[name][0])))
        assert found[name].shape == (len(text), made[name][1] if name in made else vocab), name
        assert np.abs(expected - log_softmax(found[name])).max() < MAX_ABS_LOGPROB, name
        assert adapter is None or np.abs(expected[:, :vocab] - plain).max() > 0.05, f"{name} changes nothing"
