"""Adapters with biases, of their B factors or of the base's layers, mixed with others in one batch: what peft computes."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from safetensors.torch import load_file, save_file
from support.bundles import peft_folder, tiny_bundle
from support.end_adapters import linears, peft_logits
from support.living_adapters import upload
from support.tiny_models import VOCAB, build, model

from ptune.backbone.load import load
from ptune.config.recipe import Backbone
from ptune.engine.adapters.folder import install
from ptune.engine.adapters.lora import load_adapter
from ptune.engine.decoder.engine import Engine
from ptune.errors import AdapterError
from ptune.export.decoder.int8 import write_int8
from ptune.export.weights import ModelWeights
from ptune.export.write import write_bundle
from ptune.formats.bundle import BASE, FP32, Bundle
from ptune.parity import compare, log_softmax
from ptune.tasks.chat import infer
from ptune.verify.decoder.graph import PlainGraph
from ptune.verify.decoder.plain_ends import PlainEnds
from ptune.verify.decoder.prove import prove, torch_side
from ptune.verify.decoder.torch_side import Probe
from ptune_serve.app import create_app
from ptune_serve.service import Settings

LIMIT = 5e-4
NARROW = {"llama": "q_proj", "qwen2": "q_proj", "gpt2": "c_attn"}


def with_random_biases(folder: Path, seed: int) -> Path:
    """Makes a folder's biases, which begin as zeros, other numbers."""
    (file,) = folder.glob("*.safetensors")
    tensors, random = load_file(file), torch.Generator().manual_seed(seed)
    for name, tensor in tensors.items():
        if name.endswith(".bias"):
            tensors[name] = tensor + 0.3 * torch.randn(tensor.shape, generator=random)
    save_file(tensors, file, metadata={"format": "pt"})
    return folder


@dataclass(frozen=True)
class Place:
    base: Path
    bundle: Bundle
    adapters: dict[str, Path]
    loaded: Any


def place(folder: Path, family: str) -> Place:
    """A bundle whose adapters may bring biases, and adapters with all kinds of them and none."""
    base = with_random_biases(build(folder / "model", family), seed=9)
    loaded = load(Backbone(model=str(base)), device="cpu")
    bundle = write_bundle(
        folder / "bundle",
        loaded.model.config,
        ModelWeights(loaded.model),
        loaded.codec,
        loaded.identity,
        ends=("biases", "head"),
    )
    every, one = [*linears(model(family)), "lm_head"], [NARROW[family]]
    options: dict[str, dict[str, Any]] = {
        "plain": {},
        "factors": {"lora_bias": True, "target_modules": every, "r": 3, "rank_pattern": {one[0]: 2}},
    }
    if family != "llama":  # which has no biases of its own
        options["layers"] = {"bias": "lora_only", "target_modules": one}
    if family == "qwen2":
        options["all"] = {"bias": "all", "lora_bias": True, "target_modules": one, "use_rslora": True}
    adapters = {
        name: with_random_biases(peft_folder(base, folder / name, seed=seed, spread=0.3, **more), seed)
        for seed, (name, more) in enumerate(options.items())
    }
    for name, adapter in adapters.items():
        install(bundle, adapter, name)
    return Place(base, bundle, adapters, loaded)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return place(tmp_path_factory.mktemp("qwen2"), "qwen2")


@pytest.mark.parametrize("family", NARROW)
def test_all_kinds_in_one_batch_are_what_peft_computes(family: str, tmp_path: Path, qwen: Place) -> None:
    there = qwen if family == "qwen2" else place(tmp_path, family)
    names = [*there.adapters, BASE]
    ids = {name: sequence(14 + 3 * at, at) for at, name in enumerate(names)}
    with closing(Engine.open(there.bundle, threads=1, prefill_chunk=10, replay_golden=False)) as engine:
        found = dict(zip(names, engine.logits([ids[name] for name in names], names), strict=True))
    for name in names:
        expected = peft_logits(there.base, there.adapters.get(name), ids[name])
        assert np.abs(log_softmax(expected) - log_softmax(found[name])).max() < LIMIT, name
    for name in {*there.adapters} - {"plain"}:  # their biases matter
        file = load_adapter(there.adapters[name], there.bundle.decoder)
        assert any(np.abs(b[0]).max() > 0.1 for _, b in file.factors.values()), name


def test_others_have_the_bits_of_a_bundle_without_biases(tmp_path: Path) -> None:
    """The base beside an adapter with biases, and an adapter without them."""
    base, _, without = tiny_bundle(tmp_path / "without")
    _, _, bundle = tiny_bundle(tmp_path / "with", ends=("biases",))
    plain, biased = (
        peft_folder(base, tmp_path / name, lora_bias=name == "biased") for name in ("plain", "biased")
    )
    for one in (without, bundle):
        install(one, plain, "plain")
    with pytest.raises(AdapterError, match=r"lora_bias is set.*--sockets biases"):
        install(without, biased, "biased")
    install(bundle, with_random_biases(biased, 1), "biased")
    ids = sequence(20, 0)
    found = []
    for one in (without, bundle):
        with closing(Engine.open(one, threads=1, replay_golden=False)) as engine:
            found.append([engine.logits([ids], [name])[0] for name in ("plain", BASE)])
            if one is bundle:
                (beside, _) = engine.logits([ids, sequence(9, 1)], [BASE, "biased"])
    assert all(np.array_equal(*pair) for pair in zip(*found, strict=True))
    assert np.array_equal(beside, found[0][1])


def test_they_are_proved_hop_by_hop_and_torch_is_left_as_it_was(qwen: Place) -> None:
    probes = [Probe(tuple(sequence(16, seed)), tuple(range(8, 16)), 8) for seed in range(3)]
    before = {name: one.clone() for name, one in qwen.loaded.model.state_dict().items()}
    there = torch_side(qwen.bundle, qwen.loaded.model, qwen.adapters, probes)
    proof = prove(qwen.bundle, there, threads=1, server=False)
    assert proof.passed
    after = qwen.loaded.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_int8_rounds_the_base_and_no_biases(qwen: Place, tmp_path: Path) -> None:
    write_int8(qwen.bundle.graph_path(FP32), tmp_path / "model.onnx")
    paths = {"fp32": qwen.bundle.graph_path(FP32), "int8": tmp_path / "model.onnx"}
    graphs = {name: PlainGraph(path, qwen.bundle.decoder, threads=1) for name, path in paths.items()}
    ids, lost = sequence(24, 3), {}
    for name in (None, "all"):
        adapter = None if name is None else load_adapter(qwen.adapters[name], qwen.bundle.decoder)
        plugs = () if adapter is None else (adapter.factors, PlainEnds.of_engine(adapter))
        said = [graph.logprobs(ids, range(24), *plugs) for graph in graphs.values()]
        lost[name] = compare("", said[:1], said[1:]).mean_kl or 0.0
    assert lost["all"] < 3 * lost[None] + 1e-3


def test_biases_of_layers_without_sockets_are_refused_by_name(tmp_path: Path) -> None:
    base, _, bundle = tiny_bundle(tmp_path, "gpt2", ends=("biases",))
    folder = peft_folder(base, tmp_path / "all", bias="all", target_modules=["c_attn"])
    with pytest.raises(AdapterError, match=r"layers that take no adapters.*ln_1\.bias"):
        load_adapter(folder, bundle.decoder)


def test_an_adapter_with_biases_is_added_over_http(qwen: Place) -> None:
    served = infer.load(qwen.bundle.folder, threads=1, replay_golden=False)
    with closing(served), TestClient(create_app(served, Settings(adapters_api=True))) as http:
        added = upload(http, qwen.adapters["all"], "sent")
        assert added.status_code == 200, added.text
        prompt = sequence(12, 5)
        body = {"model": "sent", "prompt": prompt, "max_tokens": 1, "temperature": 0, "logprobs": 1}
        choice = http.post("/v1/completions", json=body).json()["choices"][0]
    expected = log_softmax(peft_logits(qwen.base, qwen.adapters["all"], prompt))[-1]
    assert abs(choice["logprobs"]["token_logprobs"][0] - expected.max()) < 1e-3


def sequence(length: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(5, VOCAB, length).tolist()
