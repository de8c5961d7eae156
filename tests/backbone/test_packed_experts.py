"""Experts in nf4 and int8 stand for the weights that bitsandbytes says, and compute what transformers does with them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from bitsandbytes.functional import (
    dequantize_4bit,
    int8_vectorwise_dequant,
    int8_vectorwise_quant,
    quantize_4bit,
)
from support import tiny_models
from torch import Tensor
from transformers import PreTrainedModel

from ptune.backbone.float32 import in_float32
from ptune.backbone.identity import weights_hash
from ptune.backbone.load import load
from ptune.backbone.packed_experts import PackedExperts, make_plain, packed_experts
from ptune.backbone.parameters import parameters_of
from ptune.backbone.quantize import quantize
from ptune.config.recipe import Backbone, Recipe
from ptune.export.decoder.nf4 import blocks_of
from ptune.methods.lora import Lora

KINDS = ["nf4", "int8"]
IDS = torch.arange(5, 45)[None]


def quantised(kind: str, family: str = "qwen3_moe") -> PreTrainedModel:
    model = tiny_models.model(family).requires_grad_(False).eval()
    quantize(model, kind)  # type: ignore[arg-type]
    return model


def by_bitsandbytes(weight: Tensor, kind: str) -> Tensor:
    """A weight [out, in] as bitsandbytes rounds it."""
    if kind == "int8":
        packed, scales, _ = int8_vectorwise_quant(weight.half())
        rounded: Tensor = int8_vectorwise_dequant(packed, scales)
        return rounded
    packed, state = quantize_4bit(
        weight.contiguous(), blocksize=64, quant_type="nf4", compress_statistics=True
    )
    dequantised: Tensor = dequantize_4bit(packed, state)
    return dequantised


@pytest.mark.parametrize("family", tiny_models.MIXTURES)
@pytest.mark.parametrize("kind", KINDS)
def test_each_expert_is_rounded_as_bitsandbytes_rounds_a_layer(kind: str, family: str) -> None:
    plain, model = tiny_models.model(family), quantised(kind, family)
    found = packed_experts(model)
    assert found.keys() == {
        name for name, weight in plain.named_parameters() if ".experts." in name and weight.ndim == 3
    }
    for name, (module, weight) in found.items():
        for number, published in enumerate(plain.get_parameter(name).detach()):
            one = published.T if module.is_transposed else published
            torch.testing.assert_close(
                module.unpacked(weight, number), by_bitsandbytes(one, kind), rtol=2e-7, atol=1e-9
            )


@pytest.mark.parametrize("family", tiny_models.MIXTURES)
@pytest.mark.parametrize("kind", KINDS)
def test_they_compute_what_transformers_does_with_these_weights(kind: str, family: str) -> None:
    model = quantised(kind, family)
    in_float32(model)
    embedded = model.get_input_embeddings()(IDS).detach().requires_grad_()
    logits = model(inputs_embeds=embedded).logits
    (gradient,) = torch.autograd.grad(logits.square().sum(), embedded)
    for module in [one for one in model.modules() if isinstance(one, PackedExperts)]:
        make_plain(module)
    assert not packed_experts(model)
    plain = model(inputs_embeds=embedded).logits
    torch.testing.assert_close(logits, plain, rtol=1e-4, atol=1e-4)
    (expected,) = torch.autograd.grad(plain.square().sum(), embedded)
    assert float((gradient - expected).norm() / expected.norm()) < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_they_are_read_as_they_are_packed_and_have_one_identity(kind: str, tmp_path: Path) -> None:
    folder = tiny_models.build(tmp_path / "model", "qwen3_moe")
    spec = Backbone(model=str(folder), quantize=kind)  # type: ignore[arg-type]
    read, made = load(spec, device="cpu"), quantised(kind)
    assert read.identity.hash == weights_hash(made)
    assert parameters_of(made) == parameters_of(tiny_models.model("qwen3_moe"))
    other = quantised(kind)
    _, (module, weight) = next(iter(packed_experts(other).items()))
    next(iter(module.parameters())).view(-1)[0] += 1
    assert weights_hash(other) != weights_hash(made), weight


@pytest.mark.parametrize("kind", KINDS)
def test_they_take_the_memory_of_their_bits(kind: str) -> None:
    model, plain = quantised(kind), tiny_models.model("qwen3_moe")
    layers = {id(module): module for module, _ in packed_experts(model).values()}
    held = sum(parameter.nbytes for layer in layers.values() for parameter in layer.parameters())
    count = sum(weight.numel() for weight in plain.parameters() if weight.ndim == 3)
    assert held <= count * {"nf4": 0.55, "int8": 1.15}[kind]


def test_experts_in_sixteen_bits_are_not_copied_for_a_reference() -> None:
    model = tiny_models.model("mixtral").requires_grad_(False).eval().bfloat16()
    held = {
        name: weight for name, weight in model.named_parameters() if ".experts." in name and weight.ndim == 3
    }
    expected = {name: weight.float() for name, weight in held.items()}
    in_float32(model)
    for name, (module, weight) in packed_experts(model).items():
        assert module.get_parameter(weight).data_ptr() == held[name].data_ptr()
        for number, one in enumerate(expected[name]):
            assert torch.equal(module.as_published(weight, number), one)
    assert model(IDS).logits.dtype == torch.float32


def test_nf4_experts_have_an_exact_form_in_a_graph() -> None:
    model = quantised("nf4")
    for module, weight in packed_experts(model).values():
        assert blocks_of(module.unpacked(weight, 0).numpy()) is not None


def test_peft_is_not_given_packed_experts() -> None:
    with pytest.raises(ValueError, match=r"method\.target_parameters would adapt"):
        Recipe(
            backbone=Backbone(quantize="nf4"), method=Lora(target_parameters=("mlp.experts.gate_up_proj",))
        )
