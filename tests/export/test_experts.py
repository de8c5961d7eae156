"""Mixtures of experts: a product for each expert, in every profile, with the same bits in any company and memory for its weights."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import onnx_ir
import pytest
import torch
from safetensors.torch import save_file
from support import own_memory
from support.bundles import tiny_bundle
from support.tiny_models import MIXTURES, VOCAB, build
from transformers import AutoModelForCausalLM, PreTrainedModel

from ptune.backbone.float32 import in_float32
from ptune.backbone.load import load
from ptune.config.recipe import Backbone
from ptune.engine.decoder.engine import Engine
from ptune.export.decoder.experts import chooses_experts, grouped_products
from ptune.export.decoder.graph_variants import write_lighter
from ptune.export.decoder.int4 import write_int4
from ptune.export.decoder.int8 import weight_of, write_int8
from ptune.export.decoder.nf4 import LEAST_TOKENS, write_nf4
from ptune.export.decoder.trace import trace
from ptune.export.weights import FolderWeights, ModelWeights, attach, save
from ptune.export.write import write_bundle
from ptune.formats.bundle import BASE, FP32, INT4, INT8, NF4, Bundle, Graph, hashes
from ptune.parity import compare, log_softmax
from ptune.verify.decoder import company

LAYERS = 2
# Whose head is no embedding, which stays as it is, and whose layers are products and attention alone.
UNTIED = [
    family
    for family in MIXTURES
    if family not in ("lfm2_moe", "qwen3_next", "granitemoehybrid_experts", "qwen3_5_moe_text")
]
# The experts of granitemoe and of qwen3_next, in models that take longest of all to trace. Run with the long forms.
ALIKE = ("granitemoehybrid_experts", "qwen3_5_moe_text")
EACH = [pytest.param(family, marks=pytest.mark.slow if family in ALIKE else ()) for family in MIXTURES]
RANDOM = np.random.default_rng(0)
IDS = [RANDOM.integers(5, VOCAB, length).tolist() for length in (37, 23, 12, 1)]


def with_profile(bundle: Bundle, profile: str) -> Bundle:
    """A bundle with another graph, made of its float32 one."""
    write = {INT8: write_int8, INT4: write_int4, NF4: write_nf4}[profile]
    path = bundle.folder / "graphs" / profile / "model.onnx"
    write(bundle.graph_path(FP32), path)
    write_lighter(path, bundle.decoder)
    least = LEAST_TOKENS if profile == NF4 else 1
    files = hashes(bundle.folder, f"graphs/{profile}")
    graphs = {**bundle.manifest.graphs, profile: Graph(profile=profile, files=files, least_tokens=least)}
    bundle.write_manifest(bundle.manifest.model_copy(update={"graphs": graphs}))
    return Bundle.open(bundle.folder)


def said_by(bundle: Bundle, profile: str) -> list[np.ndarray]:
    with closing(
        Engine.open(bundle, profile=profile, threads=1, prefill_chunk=10, replay_golden=False)
    ) as engine:
        return engine.logits(IDS, [BASE] * len(IDS))


def said_by_torch(model: PreTrainedModel) -> list[np.ndarray]:
    with torch.no_grad():
        return [model(torch.tensor([ids])).logits[0].numpy() for ids in IDS]


def graph_of(bundle: Bundle, profile: str) -> onnx_ir.Graph:
    return onnx_ir.load(bundle.graph_path(profile)).graph


@pytest.mark.parametrize("family", EACH)
def test_each_expert_is_a_product_with_a_matrix_of_its_own(family: str, tmp_path: Path) -> None:
    _, loaded, bundle = tiny_bundle(tmp_path, family)
    experts = {
        name: one for name, one in loaded.model.named_parameters() if ".experts." in name and one.ndim == 3
    }
    graph = graph_of(bundle, FP32)
    groups = grouped_products(graph)
    assert len(groups) == len(experts) >= 2
    assert sum(len(group.products) for group in groups) == sum(len(one) for one in experts.values())
    largest = max(one.const_value.size for one in graph.initializers.values() if "experts" in str(one.name))
    assert largest == max(one[0].numel() for one in experts.values()), "a weight of all experts is left"
    routers = [node for node in graph if node.op_type in ("MatMul", "Gemm") and chooses_experts(node)]
    assert 2 * len(routers) == len(experts)


@pytest.mark.parametrize(
    ("family", "chosen"),
    [
        ("qwen3_moe", 6),  # both sums are of as many numbers as go wrong
        pytest.param("olmoe", 8, marks=pytest.mark.slow),
        pytest.param("qwen3_next", 10, marks=pytest.mark.slow),
    ],
)
def test_tokens_that_choose_many_experts_have_the_same_bits_in_any_company(
    family: str, chosen: int, tmp_path: Path
) -> None:
    """As many as published mixtures choose: onnxruntime adds up five numbers and more in an order that depends on where they lie."""
    base, _, bundle = tiny_bundle(
        tmp_path, family, num_experts=12, num_experts_per_tok=chosen, norm_topk_prob=True
    )
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    for expected, found in zip(said_by_torch(model), said_by(bundle, FP32), strict=True):
        assert np.abs(log_softmax(expected) - log_softmax(found)).max() < 5e-4
    assert_company(bundle, FP32)


@pytest.mark.parametrize("family", UNTIED)
def test_streamed_experts_are_the_models(family: str, tmp_path: Path) -> None:
    """Out of a folder that holds them in three dimensions, a part at a time."""
    model = AutoModelForCausalLM.from_pretrained(build(tmp_path / "model", family), dtype=torch.float32)
    whole = tmp_path / "whole"
    whole.mkdir()
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, whole / "model.safetensors")
    for name, weights in (("folder", FolderWeights(whole)), ("model", ModelWeights(model))):
        traced = trace(model.config)
        attach(traced, weights)
        save(traced, tmp_path / name / "model.onnx")
    one, other = (tmp_path / name / "model.onnx.data" for name in ("folder", "model"))
    assert one.read_bytes() == other.read_bytes()


@torch.no_grad()
def in_columns(model: PreTrainedModel) -> PreTrainedModel:
    """Rounds all weights that the int8 profile rounds: 127 steps of each output's largest weight."""

    def rounded(weight: torch.Tensor) -> torch.Tensor:  # [..., out, in]
        scale = weight.abs().amax(-1, keepdim=True) / 127
        return (weight / scale).round() * scale

    for name, weight in model.named_parameters():
        if weight.ndim > 1 and "embed" not in name and "router" not in name and ".gate." not in name:
            weight.copy_(rounded(weight))
    return model


@pytest.mark.parametrize("family", UNTIED)
def test_int8_rounds_weights_and_nothing_else(family: str, tmp_path: Path) -> None:
    """Against transformers on weights that are rounded here: what is left is two bytes' rounding of activations."""
    base, _, bundle = tiny_bundle(tmp_path, family)
    bundle = with_profile(bundle, INT8)
    model = in_columns(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval())
    expected = [log_softmax(one) for one in said_by_torch(model)]
    hop = compare(INT8, expected, map(log_softmax, said_by(bundle, INT8)), mean_kl=1e-5)
    assert hop.passed, hop
    assert_routers_alone_are_left(bundle, INT8)
    assert_company(bundle, INT8)


@pytest.mark.parametrize("family", EACH)
def test_int4_says_about_the_same(family: str, tmp_path: Path) -> None:
    base, _, bundle = tiny_bundle(tmp_path, family)
    bundle = with_profile(bundle, INT4)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    expected = [log_softmax(one) for one in said_by_torch(model)]
    hop = compare(INT4, expected, map(log_softmax, said_by(bundle, INT4)), mean_kl=0.5)
    assert hop.passed, hop
    assert_routers_alone_are_left(bundle, INT4)
    assert_company(bundle, INT4)


def assert_routers_alone_are_left(bundle: Bundle, profile: str) -> None:
    """In float32, of all products with weights."""
    graph, grouped = graph_of(bundle, profile), grouped_products(graph_of(bundle, FP32))
    left = [node for node in graph if node.op_type in ("MatMul", "Gemm") and weight_of(node) is not None]
    assert 2 * len(left) == len(grouped)
    assert all(chooses_experts(node) for node in left)


def assert_company(bundle: Bundle, profile: str) -> None:
    hop = company.hop(bundle, profile, IDS[:3], threads=1)
    assert hop.passed, hop.note
    for threads in (1, 2):
        with closing(Engine.open(bundle, profile=profile, threads=threads, replay_golden=False)) as engine:
            together = engine.logits(IDS, [BASE] * len(IDS))
            alone = [engine.logits([ids], [BASE])[0] for ids in IDS]
        assert all(np.array_equal(one, other) for one, other in zip(together, alone, strict=True))


def test_nf4_graphs_hold_what_was_trained_on(tmp_path: Path) -> None:
    """Experts in bitsandbytes' own bytes, and a router that is not rounded."""
    base = build(tmp_path / "model", "qwen3_moe")
    loaded = load(Backbone(model=str(base), quantize="nf4"), device="cpu")
    with torch.no_grad():
        trained = [loaded.model(torch.tensor([ids])).logits[0].numpy() for ids in IDS]
    in_float32(loaded.model)
    bundle = write_bundle(
        tmp_path / "bundle",
        loaded.model.config,
        ModelWeights(loaded.model),
        loaded.codec,
        loaded.identity,
        profile=NF4,
    )
    products = [node for node in graph_of(bundle, NF4) if node.op_type == "MatMulBnb4"]
    assert len(products) == LAYERS * (2 + 2 * 4), (
        "joined queries, keys and values, the output, and four experts"
    )
    for expected, found in zip(trained, said_by(bundle, NF4), strict=True):
        assert np.abs(log_softmax(expected) - log_softmax(found)).max() < 5e-4
    assert_company(bundle, NF4)


PREFILL = """
from contextlib import closing
from pathlib import Path
from ptune.engine.decoder.engine import Engine
from ptune.formats.bundle import BASE, Bundle

bundle = Bundle.open(Path(sys.argv[1]))
with closing(Engine.open(bundle, threads=1, replay_golden=False, kernels="off")) as engine:
    engine.logits([[5, 6, 7]], [BASE])
    with measured():
        engine.logits([[7 + number % 200 for number in range(128)]], [BASE])
"""


def test_a_chunk_takes_memory_for_rows_and_not_for_weights(tmp_path: Path) -> None:
    """A layer of realistic shape: 32 experts of [512, 256], of which each of 128 tokens chooses 8."""
    experts, chosen, hidden, inner, tokens = 32, 8, 512, 256, 128
    _, _, bundle = tiny_bundle(
        tmp_path, "qwen3_moe", hidden_size=hidden, moe_intermediate_size=inner, num_experts=experts,
        num_experts_per_tok=chosen, num_hidden_layers=1,
    )  # fmt: skip
    gathered = 4 * tokens * chosen * 2 * inner * hidden  # of gate and up projection alone
    rows = 4 * tokens * chosen * (2 * hidden + 3 * inner)  # all that lies between the products, at once
    gained = own_memory.gained(PREFILL, bundle.folder)
    assert gained < 2 * rows + (8 << 20) < gathered / 20
