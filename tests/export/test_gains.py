"""Adapters that scale layers (DoRA, IA3, RoAd), mixed with LoRA, biases and the base in one batch: what peft computes for each."""

from __future__ import annotations

import copy
import json
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
import pytest
from fastapi.testclient import TestClient
from support.bundles import peft_folder, tiny_bundle
from support.end_adapters import peft_logits
from support.living_adapters import upload
from support.other_adapters import save_adapter
from support.tiny_models import VOCAB

from ptune.engine.adapters.fold.fold import ORIGINAL, as_pairs
from ptune.engine.adapters.folder import install, remove
from ptune.engine.adapters.lora import load_adapter
from ptune.engine.decoder import graphs as graphs_file
from ptune.engine.decoder.cache.kv_cache import KvCache
from ptune.engine.decoder.engine import Engine
from ptune.engine.decoder.graphs import Graphs
from ptune.engine.kernels import kernels_for
from ptune.engine.options import EngineOptions, KernelChoice
from ptune.errors import AdapterError
from ptune.export.decoder.graph_variants import write_lighter
from ptune.export.decoder.int8 import write_int8
from ptune.formats.bundle import BARE, BASE, FP32, GROUPED, GROUPED_NO_GAINS, NO_GAINS, Bundle
from ptune.parity import compare, log_softmax
from ptune.publish.base_weights import base_weights
from ptune.tasks.chat import infer
from ptune.verify.decoder.graph import PlainGraph
from ptune.verify.decoder.plain_ends import PlainEnds
from ptune.verify.decoder.prove import prove, torch_side
from ptune.verify.decoder.torch_side import Probe
from ptune_serve.app import create_app
from ptune_serve.service import Settings

LIMIT = 5e-4
GAINED = ("dora", "dora_some", "ia3", "road_1", "road_2", "road_4")
SOME = {"gpt2": ["c_attn", "mlp.c_proj"]}  # layers of an adapter that leaves others alone
SCALED = {"gpt2": (["c_attn", "mlp.c_proj"], ["mlp.c_proj"])}  # of IA3: all, and those whose input is scaled


@dataclass(frozen=True)
class Place:
    base: Path
    loaded: Any
    bundle: Bundle
    adapters: dict[str, Path]

    def add(self, name: str, *, to: Bundle | None = None) -> None:
        bundle = to or self.bundle
        weights = base_weights(bundle, lambda: self.loaded.model)
        install(bundle, self.adapters[name], name, weights)


def options(family: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Name -> the start of peft's type, and its options."""
    some = SOME.get(family, ["q_proj", "up_proj", "down_proj"])
    every, inner = SCALED.get(family, (["k_proj", "v_proj", "o_proj", "down_proj"], ["o_proj", "down_proj"]))
    dora: dict[str, Any] = {"use_dora": True, "init_lora_weights": False}
    ranks = {"rank_pattern": {some[0]: 5}, "use_rslora": True, "target_modules": some}
    found: dict[str, tuple[str, dict[str, Any]]] = {
        "dora": ("lora", {"r": 3, "lora_alpha": 7, **dora}),
        "dora_some": ("lora", {"r": 2, **dora, **ranks}),
        "ia3": ("ia3", {"target_modules": every, "feedforward_modules": inner}),
        "biased": ("lora", {"r": 2, "lora_bias": True, "init_lora_weights": False}),
    }
    if family == "gpt2":  # peft's RoAd takes no Conv1D
        return found
    roads = {f"road_{numbers}": {"variant": f"road_{numbers}", "group_size": 16} for numbers in (1, 2, 4)}
    return {**found, **{name: ("road", road) for name, road in roads.items()}}


def place(folder: Path, family: str, seed: int = 0) -> Place:
    """A bundle with sockets for gains, turns and biases, and adapters of all kinds, with random numbers."""
    base, loaded, bundle = tiny_bundle(folder, family, ends=("biases", "gains", "turns"), turn_group=16)
    adapters = {
        name: save_adapter(kind, more, copy.deepcopy(loaded.model), folder / name, seed=seed + at)
        for at, (name, (kind, more)) in enumerate(options(family).items())
    }
    adapters["lora"] = peft_folder(base, folder / "lora", seed=seed, spread=0.3)
    there = Place(base, loaded, bundle, adapters)
    for name in adapters:
        there.add(name)
    return there


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return place(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle without sockets for gains."""
    return tiny_bundle(tmp_path_factory.mktemp("plain"), ends=("biases",))[2]


@pytest.mark.parametrize(
    "family", ["gpt2", "llama", *(pytest.param(one, marks=pytest.mark.slow) for one in ("qwen2", "qwen3"))]
)
def test_sixteen_mixed_sequences_are_what_peft_computes(family: str, llama: Place, tmp_path: Path) -> None:
    """By onnxruntime's operators and by own ones."""
    there = llama if family == "llama" else place(tmp_path, family, seed=31)
    names = ([BASE, *there.adapters] * 16)[:16]
    ids = [sequence(6 + 2 * at, at) for at in range(16)]
    asked = list(zip(names, ids, strict=True))
    expected = [peft_logits(there.base, there.adapters.get(name), tokens) for name, tokens in asked]
    plain = [peft_logits(there.base, None, tokens) for tokens in ids]
    for name, one, other in zip(names, expected, plain, strict=True):
        assert name == BASE or np.abs(log_softmax(one) - log_softmax(other)).max() > 0.1, name
    kernels: KernelChoice
    for kernels in ("off", "own"):
        with closing(opened(there.bundle, kernels, chunk=10)) as engine:
            found = engine.logits(ids, names)
            alone = [engine.logits([tokens], [name])[0] for name, tokens in asked]
        for name, row, single, wanted in zip(names, found, alone, expected, strict=True):
            assert np.abs(log_softmax(wanted) - log_softmax(row)).max() < LIMIT, (name, kernels)
            assert np.abs(row - single).max() <= (0 if name == BASE else 5e-5), (name, kernels)


def test_who_has_no_gains_has_the_bits_of_a_bundle_without_them(llama: Place, plain: Bundle) -> None:
    llama.add("lora", to=plain)
    mine, others = sequence(20, 0), sequence(13, 1)
    kernels: KernelChoice
    for kernels in ("off", "own"):
        with closing(opened(plain, kernels)) as engine:
            expected = [engine.logits([mine], [name])[0] for name in ("lora", BASE)]
        with closing(opened(llama.bundle, kernels)) as engine:
            for name, alone in zip(("lora", BASE), expected, strict=True):
                for company in ([], ["dora"], ["road_1", "ia3"]):
                    found = engine.logits([mine, *[others] * len(company)], [name, *company])[0]
                    if name == BASE or kernels == "own":  # whose adapters' sums are alike in any company
                        assert np.array_equal(found, alone), (name, company)
                    assert np.abs(found - alone).max() < 5e-5, (name, company)


def test_a_graph_without_gains_is_that_of_a_bundle_without_them(llama: Place, plain: Bundle) -> None:
    """And only steps with such an adapter are computed by another one."""
    without, bundle = plain, llama.bundle
    pairs = [("model.onnx", NO_GAINS), (GROUPED, GROUPED_NO_GAINS), (BARE, BARE)]
    for theirs, mine in pairs:
        one, other = (
            onnx_ir.load(each.graph_path(FP32).with_name(name)).graph
            for each, name in ((without, theirs), (bundle, mine))
        )
        assert [value.name for value in one.inputs] == [value.name for value in other.inputs]
        assert Counter(map(described, one)) == Counter(map(described, other))
    assert not without.decoder.gain_sizes()
    graphs = Graphs.open(bundle.graph_path(FP32), bundle.decoder, 1)
    assert graphs.without_gains is not None
    assert graphs.without_gains.bare is graphs.bare


@pytest.mark.parametrize("kernels", ["off", "own"])
def test_one_graph_for_all_steps_gives_the_same_bits(
    kernels: KernelChoice, llama: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where weights are too heavy for another one."""
    names = [BASE, *llama.adapters]
    asked = [(sequence(7 + at, at), name) for at, name in enumerate(names)]
    found = []
    for light in (True, False):
        if not light:
            monkeypatch.setattr(graphs_file, "LIGHT", 0)
        with closing(opened(llama.bundle, kernels)) as engine:
            found.append([engine.logits([ids], [name])[0] for ids, name in asked])
    for name, one, other in zip(names, *found, strict=True):
        assert np.array_equal(one, other), name


def test_gains_of_inputs_are_there_where_one_layer_reads_them(llama: Place, tmp_path: Path) -> None:
    ends = llama.bundle.decoder.ends
    assert ends is not None
    assert {name.rpartition(".")[2] for name in ends.inner} == {"o_proj", "down_proj"}
    kind: dict[str, Any] = {"target_modules": ["up_proj"], "feedforward_modules": ["up_proj"]}
    folder = save_adapter("ia3", kind, copy.deepcopy(llama.loaded.model), tmp_path / "shared")
    with pytest.raises(AdapterError, match=r"an input that other layers read.*up_proj\.inner"):
        install(llama.bundle, folder, "shared")


@pytest.mark.parametrize("name", ["dora", "ia3", "road_1"])
def test_a_bundle_without_sockets_refuses_them_in_one_sentence(
    name: str, llama: Place, plain: Bundle
) -> None:
    with pytest.raises(
        AdapterError, match=r"which this bundle has no sockets for: .*--sockets gains"
    ) as told:
        llama.add(name, to=plain)
    assert "\n" not in str(told.value)
    assert name not in Bundle.open(plain.folder).manifest.adapters


def test_gains_are_no_turns(llama: Place) -> None:
    assert llama.bundle.decoder.ends is not None
    ends = llama.bundle.decoder.ends.model_copy(update={"kinds": ("gains",)})
    with (
        pytest.raises(AdapterError, match=r"of ROAD, which .*RoAd: --sockets turns"),
        as_pairs(llama.adapters["road_1"], {}, ends=ends),
    ):
        pass


def test_dora_needs_the_base_and_the_others_do_not(llama: Place) -> None:
    with pytest.raises(AdapterError, match=r"LORA \(DoRA\), which is folded with the base's weights"):
        install(llama.bundle, llama.adapters["dora"], "alone")
    install(llama.bundle, llama.adapters["road_2"], "again")
    record = Bundle.open(llama.bundle.folder).adapter("again")
    assert record.folded is not None
    assert (record.folded.method, record.rank) == ("ROAD", 1)
    assert (llama.bundle.adapter_path("again") / ORIGINAL / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"group_size": 8}, "group_size 8, and this bundle has sockets for 16"),
        ({"variant": "road_4"}, "road_theta is"),
        ({"group_size": "x"}, "group_size 'x', and"),
        ({"group_size": None}, "group_size 64, and"),
    ],
)
def test_a_wrong_road_is_refused(changes: dict[str, Any], said: str, llama: Place, tmp_path: Path) -> None:
    folder = save_adapter(*options("llama")["road_1"], copy.deepcopy(llama.loaded.model), tmp_path / "wrong")
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    with pytest.raises(AdapterError, match=said):
        install(llama.bundle, folder, "wrong")


def test_a_wrong_pattern_of_layers_is_refused(llama: Place, tmp_path: Path) -> None:
    folder = save_adapter(*options("llama")["ia3"], copy.deepcopy(llama.loaded.model), tmp_path / "wrong")
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "feedforward_modules": "(down"}))
    with pytest.raises(AdapterError, match=r"feedforward_modules: .*'\(down' is not a valid pattern"):
        install(llama.bundle, folder, "wrong")


@pytest.mark.parametrize("seed", range(3))
def test_they_come_and_go(seed: int, llama: Place) -> None:
    """Slots that had gains have none afterwards, and an adapter that is added again answers as before."""
    draw, ids = np.random.default_rng(seed), sequence(11, seed)
    with closing(opened(llama.bundle, "off", sequences=2)) as engine:
        before = {name: engine.logits([ids], [name])[0] for name in (*llama.adapters, BASE)}
        for _ in range(12):
            pair = draw.choice([*before], 2).tolist()
            for name, row in zip(pair, engine.logits([ids, ids], pair), strict=True):
                assert np.abs(row - before[name]).max() < 5e-5, pair
    remove(llama.bundle, "dora")
    llama.add("dora")
    with closing(opened(llama.bundle, "off")) as engine:
        assert np.array_equal(engine.logits([ids], ["dora"])[0], before["dora"])


def test_they_are_proved_hop_by_hop_and_torch_is_left_as_it_was(llama: Place) -> None:
    probes = [Probe(tuple(sequence(16, seed)), tuple(range(8, 16)), 8) for seed in range(2)]
    before = {name: one.clone() for name, one in llama.loaded.model.state_dict().items()}
    folders = {name: llama.bundle.adapter_path(name) for name in llama.adapters}
    there = torch_side(llama.bundle, llama.loaded.model, folders, probes)
    random = there.everywhere.ends.gains
    assert {name.rpartition(".")[2] for name in random} == {"gain", "turn", "inner"}
    assert prove(llama.bundle, there, threads=1, server=False).passed
    after = llama.loaded.model.state_dict()
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("own", [False, True])
def test_int8_rounds_the_base_and_no_gains(own: bool, llama: Place, tmp_path: Path) -> None:
    path = tmp_path / "int8" / "model.onnx"
    write_int8(llama.bundle.graph_path(FP32), path)
    write_lighter(path, llama.bundle.decoder)
    names = [BASE, *llama.adapters]
    ids = [sequence(9 + 2 * at, at) for at in range(len(names))]
    kernels = kernels_for(path) if own else None
    graphs = Graphs.open(path, llama.bundle.decoder, 1, 1, kernels)
    with closing(engine_of(llama.bundle, graphs)) as engine:
        together = engine.logits(ids, names)
        alone = [engine.logits([tokens], [name])[0] for tokens, name in zip(ids, names, strict=True)]
    lost = {}
    for name, tokens, row, single in zip(names, ids, together, alone, strict=True):
        if name == BASE or kernels is not None:
            assert np.array_equal(row, single), name
        expected = log_softmax(peft_logits(llama.base, llama.adapters.get(name), tokens))
        lost[name] = compare("", [expected], [log_softmax(row)]).mean_kl or 0.0
    assert all(lost[name] < 4 * lost[BASE] + 2e-3 for name in lost), lost


def test_the_plain_graph_takes_what_the_engine_read(llama: Place) -> None:
    adapter = load_adapter(llama.bundle.adapter_path("ia3"), llama.bundle.decoder)
    assert not adapter.factors
    ids = sequence(12, 4)
    graph = PlainGraph(llama.bundle.graph_path(FP32), llama.bundle.decoder, threads=1)
    found = graph.logprobs(ids, range(12), adapter.factors, PlainEnds.of_engine(adapter))
    expected = log_softmax(peft_logits(llama.base, llama.adapters["ia3"], ids))
    assert np.abs(found - expected).max() < LIMIT


def test_an_adapter_with_gains_is_added_over_http_and_removed(llama: Place) -> None:
    prompt = sequence(12, 5)
    body = {"model": "sent", "prompt": prompt, "max_tokens": 1, "temperature": 0, "logprobs": 1}
    served = infer.load(llama.bundle.folder, threads=1, replay_golden=False)
    with closing(served), TestClient(create_app(served, Settings(adapters_api=True))) as http:
        refused = upload(http, llama.adapters["dora"], "base_needed")
        assert refused.status_code == 400
        assert "add it with `ptune add`" in refused.text
        for name in ("ia3", "road_4"):
            added = upload(http, llama.adapters[name], "sent")
            assert added.status_code == 200, added.text
            choice = http.post("/v1/completions", json=body).json()["choices"][0]
            expected = log_softmax(peft_logits(llama.base, llama.adapters[name], prompt))[-1]
            assert abs(choice["logprobs"]["token_logprobs"][0] - expected.max()) < 1e-3
            assert http.delete("/v1/adapters/sent").status_code == 200


def described(node: onnx_ir.Node) -> tuple[object, ...]:
    constants = [named(one) for one in node.inputs if one is not None and one.const_value is not None]
    inputs = [str(one.name) for one in node.inputs if one is not None and one.is_graph_input()]
    inputs = inputs if node.op_type != "Shape" else []  # of any input with the same axes
    return node.domain, node.op_type, *constants, *inputs


def named(constant: onnx_ir.Value) -> object:
    """Its name, or its numbers where the exporter numbered it."""
    assert constant.const_value is not None
    name = str(constant.name)
    return constant.const_value.numpy().tobytes() if name.startswith("val_") else name


def opened(bundle: Bundle, kernels: KernelChoice, *, chunk: int = 256, sequences: int = 16) -> Engine:
    return Engine.open(
        bundle, threads=1, prefill_chunk=chunk, max_rows=sequences, kernels=kernels, replay_golden=False
    )


def engine_of(bundle: Bundle, graphs: Graphs) -> Engine:
    engine = Engine(bundle, graphs, KvCache(bundle.decoder, 16, 128), EngineOptions(prefill_chunk=64))
    engine._registry.load_all()
    return engine


def sequence(length: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(5, VOCAB, length).tolist()
