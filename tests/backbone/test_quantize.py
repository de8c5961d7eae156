"""Quantised layers stand for exactly the weights that bitsandbytes says, train, and are known by their hash."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
import torch.nn.functional as F
from support import gguf_file, tiny_models
from torch import nn
from transformers import PreTrainedModel

from ptune.backbone.float32 import Float32Linear, in_float32
from ptune.backbone.identity import weights_hash
from ptune.backbone.load import load
from ptune.backbone.quantize import Nf4Linear, quantize
from ptune.config.recipe import Backbone
from ptune.errors import BackboneError

KINDS = ["nf4", "int8"]
IDS = torch.arange(5, 45)[None]


def quantised(kind: str, family: str = "qwen2") -> PreTrainedModel:
    """Qwen2 has linear layers with and without bias."""
    model = tiny_models.model(family)
    model.requires_grad_(False)
    quantize(model, kind)  # type: ignore[arg-type]
    return model


def packed_layers(model: nn.Module) -> dict[str, nn.Module]:
    kinds = (bnb.nn.Linear4bit, bnb.nn.Linear8bitLt)
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, kinds)}


def weight_by_bitsandbytes(layer: Any) -> torch.Tensor:
    if isinstance(layer, bnb.nn.Linear4bit):
        return bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    return bnb.functional.int8_vectorwise_dequant(layer.weight.data, layer.weight.SCB)


@pytest.mark.parametrize("kind", KINDS)
def test_every_linear_layer_but_the_head_is_packed(kind: str) -> None:
    plain, model = tiny_models.model("qwen2"), quantised(kind)
    linears = {name for name, layer in plain.named_modules() if isinstance(layer, nn.Linear)}
    assert packed_layers(model).keys() == linears - {"lm_head"}
    if kind == "nf4":
        states = [layer.weight.quant_state for layer in packed_layers(model).values()]
        assert {(state.quant_type, state.nested, state.blocksize) for state in states} == {("nf4", True, 64)}


@pytest.mark.parametrize("kind", KINDS)
def test_dequantised_weights_are_those_of_bitsandbytes(kind: str) -> None:
    model = quantised(kind)
    expected = {name: weight_by_bitsandbytes(layer).clone() for name, layer in packed_layers(model).items()}
    biases = {name: layer.bias for name, layer in packed_layers(model).items()}
    in_float32(model)
    for name, weight in expected.items():
        layer = model.get_submodule(name)
        assert isinstance(layer, Float32Linear)
        assert layer.weight.dtype == torch.float32
        torch.testing.assert_close(layer.weight, weight, rtol=2e-7, atol=0)  # one rounding of float32
        assert (layer.bias is None) == (biases[name] is None)
        assert layer.bias is None or torch.equal(layer.bias, biases[name])


@pytest.mark.parametrize("kind", KINDS)
def test_dequantised_model_is_the_one_that_trains(kind: str) -> None:
    model = quantised(kind).train()
    embedded = model.get_input_embeddings()(IDS).requires_grad_()
    live = model(inputs_embeds=embedded).logits.detach()
    plain = copy.deepcopy(model)
    in_float32(plain)
    torch.testing.assert_close(plain(IDS).logits, live, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_computes_what_training_does(kind: str) -> None:
    """bitsandbytes' own layers evaluate with other kernels; its int8 one quantises the activations."""
    model = quantised(kind)
    with torch.no_grad():
        live = model.eval()(IDS).logits
        in_float32(model)
        torch.testing.assert_close(model(IDS).logits, live, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_pass_through_after_an_evaluation(kind: str) -> None:
    """bitsandbytes repacks 4-bit weights at the first evaluation for a kernel without a gradient; ours do not."""
    model = quantised(kind)
    hashed = weights_hash(model)

    def gradient() -> torch.Tensor:
        model.train()
        embedded = model.get_input_embeddings()(IDS).detach().requires_grad_()
        model(inputs_embeds=embedded).logits.square().sum().backward()
        assert embedded.grad is not None
        return embedded.grad

    before = gradient()
    with torch.no_grad():
        model.eval()(IDS)
    assert torch.equal(gradient(), before)
    assert weights_hash(model) == hashed
    in_float32(model)  # and nothing is lost
    plain = gradient()
    assert float((plain - before).norm() / before.norm()) < 1e-3


def test_repacked_bytes_are_not_taken_for_weights() -> None:
    model = quantised("nf4")
    next(iter(packed_layers(model).values())).weight.quant_state.packing_format_for_cpu = True
    in_float32(model)
    with pytest.raises(BackboneError, match="repacked"):
        model(IDS)


def test_a_model_without_such_layers_is_refused() -> None:
    model = tiny_models.model("gpt2")
    with pytest.raises(BackboneError, match=r"GPT2LMHeadModel has no nn\.Linear"):
        quantize(model, "nf4")


def test_the_hash_is_the_same_in_every_process(tmp_path: Path) -> None:
    folder, kinds = tiny_models.build(tmp_path / "model", "llama_tied"), (*KINDS, "none")
    backbones = [Backbone.model_validate({"model": str(folder), "quantize": kind}) for kind in kinds]
    here = [load(backbone).identity for backbone in backbones]
    code = (
        "from ptune.backbone.load import load; from ptune.config.recipe import Backbone;"
        f"[print(load(Backbone(model={str(folder)!r}, quantize=kind)).identity.hash) for kind in {kinds!r}]"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert there.split() == [identity.hash for identity in here]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_quantised_as_it_is_read_is_the_same(tmp_path: Path, kind: Any) -> None:
    """Of safetensors and of GGUF, as weights that were all read before."""
    gguf_file.write(tmp_path / "tiny.gguf")
    for model in (tmp_path / "tiny.gguf", tiny_models.build(tmp_path / "model", "qwen2")):
        spec = Backbone(model=str(model), dtype="float32")
        plain = load(spec).model
        quantize(plain, kind)
        assert load(spec.model_copy(update={"quantize": kind})).identity.hash == weights_hash(plain)


def test_the_bytes_do_not_depend_on_the_number_of_threads() -> None:
    """bitsandbytes subtracts the mean of the scales, which torch sums in another order with more threads."""
    plain = nn.Linear(2048, 2048, bias=False)
    threads, states = torch.get_num_threads(), []
    try:
        torch.set_num_threads(1)
        own = bnb.nn.Params4bit(plain.weight.data, quant_type="nf4").to("cpu")
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            states.append(Nf4Linear(plain).state_dict())
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    own_state = own.quant_state.as_dict(packed=True)
    for state in states:
        assert all(torch.equal(state[name], states[0][name]) for name in states[0])
        assert torch.equal(state["weight"], own.data)
        assert torch.equal(state["weight.absmax"], own_state["absmax"])


def test_the_hash_knows_every_bit_and_the_quantisation(tmp_path: Path) -> None:
    hashes = {weights_hash(quantised(kind)) for kind in KINDS} | {weights_hash(tiny_models.model("qwen2"))}
    assert len(hashes) == 3
    assert weights_hash(tiny_models.model("qwen2").bfloat16()) not in hashes

    for kind in KINDS:
        model = quantised(kind)
        before = weights_hash(model)
        layer: Any = next(iter(packed_layers(model).values()))
        scales = layer.weight.quant_state.state2.absmax if kind == "nf4" else layer.weight.SCB
        scales[0] = torch.nextafter(scales[0], scales[0] + 1)
        assert weights_hash(model) != before
        scales[0] = torch.nextafter(scales[0], scales[0] - 1)
        assert weights_hash(model) == before
        layer.weight.data.view(torch.uint8).flatten()[7] ^= 1
        assert weights_hash(model) != before


def test_a_tied_weight_counts_once() -> None:
    tied, untied = tiny_models.model("llama_tied"), tiny_models.model("llama_tied")
    untied.lm_head.weight = nn.Parameter(untied.lm_head.weight.detach().clone())
    assert weights_hash(tied) == weights_hash(tiny_models.model("llama_tied")) != weights_hash(untied)


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_are_counted_as_if_unpacked(tmp_path: Path, kind: str) -> None:
    folder = tiny_models.build(tmp_path / "model", "qwen2")
    expected = sum(parameter.numel() for parameter in tiny_models.model("qwen2").parameters())
    assert load(Backbone(model=str(folder), quantize=kind)).identity.parameters == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("training", [True, False])
def test_int8_layers_multiply_by_their_weights(dtype: torch.dtype, training: bool) -> None:
    """No outlier decomposition, no rounding of the activations: as x @ W^T + b in the input's type, gradients too."""
    model = quantised("int8")
    layer: Any = next(iter(packed_layers(model).values())).train(training).to(dtype)
    layer.bias.requires_grad_()
    x = torch.randn(2, 3, layer.in_features, dtype=dtype, requires_grad=True)
    weight = layer.dequantised().to(dtype)
    torch.testing.assert_close(weight.float(), weight_by_bitsandbytes(layer), rtol=2**-8, atol=0)
    there, here = F.linear(x, weight, layer.bias), layer(x)
    assert torch.equal(here, there)
    upstream = torch.randn_like(here)
    inputs = (x, layer.bias)
    for own, theirs in zip(
        torch.autograd.grad(here, inputs, upstream), torch.autograd.grad(there, inputs, upstream), strict=True
    ):
        torch.testing.assert_close(own, theirs)


def test_int8_layers_never_reach_the_product_of_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU it rounds the activations, which no test here can see."""
    monkeypatch.setattr(bnb, "matmul", None)
    model = quantised("int8")
    assert model.train()(IDS).logits.isfinite().all()
    assert model.eval()(IDS).logits.isfinite().all()


def test_a_kernel_that_is_not_used_is_not_missed_aloud() -> None:
    """bitsandbytes says so at its import, which may come before anything of ptune's but `import ptune`."""
    logs = """
import logging, ptune
log = logging.getLogger("bitsandbytes.backends.cpu.ops")
log.warning("Failed to load CPU gemm_4bit_forward from kernels-community: %s.", "No module named 'kernels'")
log.warning("something else")
import ptune.backbone
"""
    done = subprocess.run([sys.executable, "-c", logs], capture_output=True, text=True, check=True)
    assert done.stderr == "something else\n"
