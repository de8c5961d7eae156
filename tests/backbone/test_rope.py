"""Rotary embeddings that depend on a sequence's length, against transformers at each length."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
import transformers
from support.bundles import peft_folder, tiny_bundle
from support.fake_chat_model import serving
from support.tiny_models import VOCAB, build, model

from ptune import publish
from ptune.backbone.load import load
from ptune.backbone.rope import with_fixed_rope
from ptune.config.recipe import Backbone
from ptune.engine.decoder.engine import Engine
from ptune.errors import BackboneError
from ptune.formats.bundle import BASE, Bundle
from ptune.parity import log_softmax
from ptune.planning.exportable import check_exportable
from ptune.planning.model_check import check_model
from ptune.tasks.chat.infer import load as load_chat
from ptune_serve.app import create_app

ORIGINAL = 64  # tokens that the tiny LongRoPE model was "pretrained" at; its config says 512 at most
SHORT, LONG = [1.0 + 0.1 * at for at in range(8)], [2.0 + 0.7 * at for at in range(8)]
LONGROPE: dict[str, Any] = {
    "original_max_position_embeddings": ORIGINAL,
    "rope_parameters": {
        "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": SHORT, "long_factor": LONG,
    },
}  # fmt: skip
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "longrope": ("phi3", LONGROPE),
    "dynamic": (
        "llama",
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}},
    ),
    "proportional": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "proportional", "rope_theta": 10000.0, "partial_rotary_factor": 0.5,
            }
        },
    ),
    "linear": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}}),
    "llama3": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": ORIGINAL,
            }
        },
    ),
    "yarn": (
        "qwen3",
        {
            "rope_parameters": {
                "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0,
                "original_max_position_embeddings": ORIGINAL,
            }
        },
    ),
}  # fmt: skip
LIMIT = 1e-3


def ids(length: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(5, VOCAB, length).tolist()


def said(module: torch.nn.Module, tokens: list[int]) -> np.ndarray[Any, Any]:
    with torch.no_grad():
        return log_softmax(module(torch.tensor([tokens])).logits[0].float().numpy())


def apart(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    return float(np.abs(one - other).max())


def plain(folder: Path) -> torch.nn.Module:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@dataclass(frozen=True)
class Exported:
    kind: str
    model: Path
    bundle: Bundle


@pytest.fixture(scope="module", params=KINDS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A tiny model with each kind of rotary embedding, and its bundle."""
    family, changes = KINDS[request.param]
    folder, _, bundle = tiny_bundle(tmp_path_factory.mktemp(request.param), family, **changes)
    return Exported(request.param, folder, bundle)


def test_a_short_prompt_has_the_same_bits_beside_a_long_one(exported: Exported) -> None:
    """The longest that is served, however it is chunked, beside a short one: torch's own numbers for both."""
    kind, bundle, torch_side = exported.kind, exported.bundle, plain(exported.model)
    short = ids(20)
    with closing(Engine.open(bundle, threads=1, prefill_chunk=16, replay_golden=False)) as engine:
        assert engine.signature.context == (ORIGINAL if kind == "longrope" else 512)
        long = ids(engine.context, seed=1)
        (alone,) = engine.logits([short], [BASE])
        beside, chunked = engine.logits([short, long], [BASE, BASE])
    with closing(Engine.open(bundle, threads=1, prefill_chunk=512, replay_golden=False)) as engine:
        (whole,) = engine.logits([long], [BASE])
    assert np.array_equal(alone, beside)
    assert np.array_equal(chunked, whole)
    assert apart(log_softmax(alone), said(torch_side, short)) < LIMIT
    assert apart(log_softmax(whole), said(torch_side, long)) < LIMIT


def test_over_http_a_short_prompt_has_the_same_numbers_beside_a_long_one(exported: Exported) -> None:
    """The log-probabilities that a client reads, of a short prompt alone and of both at once: torch's own for both."""
    torch_side = plain(exported.model)
    model = load_chat(exported.bundle.folder, threads=1, prefill_chunk=16, replay_golden=False)
    with closing(model), serving(create_app(model)) as url, httpx.Client(base_url=url, timeout=60) as http:

        def logprobs(*prompts: list[int]) -> list[list[float]]:
            fields = {"echo": True, "logprobs": 0, "max_tokens": 1, "temperature": 0}
            reply = http.post("/v1/completions", json={"model": BASE, "prompt": prompts, **fields})
            choices = reply.raise_for_status().json()["choices"]
            return [
                choice["logprobs"]["token_logprobs"][1 : len(prompt)]
                for choice, prompt in zip(choices, prompts, strict=True)
            ]

        short = ids(20)
        long = ids(model.engine.context - 1, seed=1)
        (alone,) = logprobs(short)
        beside, long_beside = logprobs(short, long)
    assert beside == alone
    for tokens, served in ((short, alone), (long, long_beside)):
        expected = np.take_along_axis(said(torch_side, tokens)[:-1], np.array(tokens)[1:, None], axis=1)[:, 0]
        assert apart(np.array(served), expected) < LIMIT


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_a_longer_context_is_served_with_its_own_frequencies(kind: str, tmp_path: Path) -> None:
    """What plain transformers computes for a sequence of that length, which looks at this sequence alone."""
    family, changes = KINDS[kind]
    folder = build(tmp_path / "model", family, **changes)
    context = 300 if kind == "longrope" else 700
    loaded = load(Backbone(model=str(folder), context=context), device="cpu")
    assert loaded.codec.context == context
    long = ids(context)
    expected = said(plain(folder), long)
    assert apart(said(loaded.model, long), expected) < LIMIT
    short = ids(20)
    assert apart(said(loaded.model, short), said(plain(folder), short)) > 0.01, "one set for all lengths"
    assert loaded.identity.hash != load(Backbone(model=str(folder)), device="cpu").identity.hash


def test_a_bundle_of_a_longer_context_is_verified_and_takes_adapters(tmp_path: Path) -> None:
    """Both read the base again, as it was exported: with the frequencies of that length."""
    folder = build(tmp_path / "model", "phi3", **LONGROPE)
    publish.export_backbone(Backbone(model=str(folder), context=300), tmp_path / "bundle", threads=1)
    adapter = peft_folder(folder, tmp_path / "adapter")
    assert publish.add(tmp_path / "bundle", adapter, "own", threads=1).parity == "measured"
    proof = publish.verify(tmp_path / "bundle", threads=1)
    assert proof.passed
    assert {*proof.adapters} == {"own"}


def test_what_was_fixed_stays_fixed_in_a_saved_folder(tmp_path: Path) -> None:
    folder = build(tmp_path / "model", "phi3", **LONGROPE)
    load(Backbone(model=str(folder)), device="cpu").model.save_pretrained(tmp_path / "saved")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "saved")
    assert config.max_position_embeddings == ORIGINAL
    assert config.rope_parameters["long_factor"] == SHORT
    assert with_fixed_rope(config) is config
    long = ids(100)  # beyond what it is for, yet with the frequencies that it was saved with
    assert apart(said(plain(tmp_path / "saved"), long), said(plain(folder), long)) > 0.01


def test_the_scale_of_attention_is_transformers_own() -> None:
    config = model("phi3", **LONGROPE).config
    scale = transformers.AutoModelForCausalLM.from_config(config).model.rotary_emb.attention_scaling
    fixed = with_fixed_rope(config)
    assert (
        transformers.AutoModelForCausalLM.from_config(fixed).model.rotary_emb.attention_scaling == scale > 1
    )


@pytest.mark.parametrize(("family", "changes", "context", "words"), [
    ("llama", {}, 300, "one for all lengths"),
    ("phi3", LONGROPE, 513, "512 at most"),
])  # fmt: skip
def test_a_context_that_cannot_be_is_refused(
    family: str, changes: dict[str, Any], context: int, words: str, tmp_path: Path
) -> None:
    folder = build(tmp_path / "model", family, **changes)
    with pytest.raises(BackboneError, match=words):
        load(Backbone(model=str(folder), context=context), device="cpu")


def test_an_unknown_kind_is_refused_by_name(tmp_path: Path) -> None:
    """By the config alone: there are no weights in the folder."""
    folder = build(tmp_path / "model", "llama")
    (folder / "model.safetensors").unlink()
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "spiral", "rope_theta": 10000.0}
    (folder / "config.json").write_text(json.dumps(config))
    for look in (check_exportable, load, check_model):
        with pytest.raises(BackboneError, match=r"rotary embedding 'spiral'.*proportional"):
            look(Backbone(model=str(folder)))


def test_what_hunyuan_calls_dynamic_has_one_set_of_frequencies() -> None:
    parameters = {"rope_type": "dynamic", "rope_theta": 10000.0, "alpha": 1000.0, "factor": 1.0}
    config = transformers.HunYuanDenseV1Config(rope_parameters=parameters, max_position_embeddings=64)
    assert with_fixed_rope(config) is config
    assert with_fixed_rope(transformers.LlamaConfig(rope_parameters=dict(parameters))) is not config
