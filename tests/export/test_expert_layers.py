"""Kinds of experts, layer by layer: each family's own gates, clamps, biases and layouts, as transformers computes them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime
import pytest
import torch
import transformers
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts
from transformers.models.mixtral.modeling_mixtral import MixtralExperts
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHExperts

from ptune.backbone.packed_experts import make_plain, pack_experts
from ptune.export.decoder import experts
from ptune.export.decoder.experts import spell_out
from ptune.export.decoder.trace import DYNAMIC, Traced, onnx_of
from ptune.export.weights import ModelWeights, attach, save

HIDDEN, INNER, EXPERTS, CHOSEN, TOKENS = 32, 24, 5, 2, 23
SIZES: dict[str, Any] = {"hidden_size": HIDDEN, "num_experts_per_tok": CHOSEN}

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "gated": lambda: MixtralExperts(
        transformers.MixtralConfig(**SIZES, intermediate_size=INNER, num_local_experts=EXPERTS)
    ),
    "turned, interleaved, clamped, with biases": lambda: GptOssExperts(
        transformers.GptOssConfig(**SIZES, intermediate_size=INNER, num_local_experts=EXPERTS)
    ),
    "without a gate": lambda: NemotronHExperts(
        transformers.NemotronHConfig(**SIZES, moe_intermediate_size=INNER, n_routed_experts=EXPERTS)
    ),
}  # fmt: skip


class Layer(nn.Module):
    """Experts as the tracer sees them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        out: Tensor = self.model(x, index, weights)
        return out


@pytest.fixture(params=LAYERS)
def layer(request: pytest.FixtureRequest) -> nn.Module:
    """With random weights, as transformers computes it in a loop over the experts."""
    made, random = LAYERS[request.param](), torch.Generator().manual_seed(0)
    made.config._experts_implementation = "eager"
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.7, generator=random)
    return made.requires_grad_(False)


def inputs(seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    chosen = torch.rand(TOKENS, EXPERTS, generator=random).topk(CHOSEN)
    return torch.randn(TOKENS, HIDDEN, generator=random), chosen.indices, chosen.values


def graph_of(layer: nn.Module, path: Path) -> onnxruntime.InferenceSession:
    """The layer, traced without its weights, which are attached as a bundle's are."""
    traced, mode = Layer(copy.deepcopy(layer)), FakeTensorMode(allow_non_fake_inputs=True)
    traced.model.config._experts_implementation = experts.NAME
    with mode:
        for name, parameter in layer.named_parameters():
            traced.model._parameters[name] = nn.Parameter(torch.empty(parameter.shape), requires_grad=False)
        arguments = tuple(torch.empty(one.shape, dtype=one.dtype) for one in inputs())
    rows = ({0: DYNAMIC},) * 3
    names = ["x", "index", "weights"]
    graph = onnx_of(traced, arguments, rows, names, ["y"], "experts", optimize=False)
    whole = Traced(graph, cast(Any, None), frozenset(), {}, spell_out(graph))
    attach(whole, ModelWeights(layer))
    save(whole, path)
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def run(session: onnxruntime.InferenceSession, feed: tuple[Tensor, ...]) -> np.ndarray:
    found: np.ndarray = session.run(
        ["y"], {"x": feed[0].numpy(), "index": feed[1].numpy(), "weights": feed[2].numpy()}
    )[0]
    return found


def test_a_graph_computes_what_transformers_does(layer: nn.Module, tmp_path: Path) -> None:
    session = graph_of(layer, tmp_path / "model.onnx")
    together = run(session, inputs())
    np.testing.assert_allclose(together, layer(*inputs()).numpy(), rtol=1e-4, atol=1e-4)
    for start, end in ((0, 1), (5, 7), (9, 20)):
        alone = run(session, tuple(one[start:end] for one in inputs()))
        assert np.array_equal(alone, together[start:end]), "a token's bits depend on who is beside it"


def test_one_expert_may_get_all_tokens(layer: nn.Module, tmp_path: Path) -> None:
    x, index, weights = inputs()
    same = torch.zeros_like(index)
    same[:, 1] = EXPERTS - 1
    found = run(graph_of(layer, tmp_path / "model.onnx"), (x, same, weights))
    np.testing.assert_allclose(found, layer(x, same, weights).numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("packing", ["nf4", "int8", "bfloat16"])
def test_packed_experts_compute_what_their_weights_say(layer: nn.Module, packing: Any) -> None:
    if packing == "bfloat16":
        layer.bfloat16()
    pack_experts(layer, packing)
    layer.float()
    x, index, weights = inputs()
    x.requires_grad_()
    found = layer(x, index, weights)
    (gradient,) = torch.autograd.grad(found.square().sum(), x)
    make_plain(layer)
    plain = layer(x, index, weights)
    (expected,) = torch.autograd.grad(plain.square().sum(), x)
    torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-3)
