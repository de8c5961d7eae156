"""Experts that a file has one by one are unpacked as they are read; those of gpt-oss stay packed, as all other layers do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import PeftModel
from safetensors.torch import load_file, save_file
from support import packed_checkpoints as made
from support import tiny_models
from support.every_method import logits, trained

from ptune.backbone.load import load
from ptune.backbone.packed.linear import PackedLinear
from ptune.backbone.packed_experts import packed_experts
from ptune.config.recipe import Backbone
from ptune.methods.lora import Lora

IDS = torch.arange(5, 45)[None]


@pytest.mark.parametrize("name", ["gptq", "awq", "fp8", "compressed int4"])
def test_experts_that_a_file_has_one_by_one(tmp_path: Path, name: str) -> None:
    folder, values = made.build(tmp_path / "model", made.FORMATS[name], "qwen3_moe")
    original = tmp_path / "plain"
    tiny_models.build(original, "qwen3_moe")
    tensors = load_file(original / "model.safetensors") | {
        name: value.contiguous() for name, value in values.items()
    }
    save_file(tensors, original / "model.safetensors", metadata={"format": "pt"})
    expected = transformers.AutoModelForCausalLM.from_pretrained(original, dtype=torch.float32)
    model = load(Backbone(model=str(folder), dtype="float32")).model
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, expected(IDS).logits)
    assert isinstance(model.model.layers[0].self_attn.q_proj, PackedLinear)
    assert model.model.layers[0].mlp.experts.gate_up_proj.dtype == torch.float32


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gpt_oss_is_what_transformers_dequantises(tmp_path: Path, dtype: Any) -> None:
    folder = made.gpt_oss(tmp_path / "model")
    settings = transformers.Mxfp4Config(dequantize=True)
    kind = getattr(torch, dtype)
    expected = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=kind, quantization_config=settings
    )
    loaded = load(Backbone(model=str(folder), dtype=dtype))
    assert loaded.identity.quantize == "mxfp4"
    theirs, kept = expected.state_dict(), packed_experts(loaded.model)
    assert {name for name in theirs if name.endswith(("gate_up_proj", "down_proj"))} == {*kept}
    for name, (experts, weight) in kept.items():
        assert getattr(experts, weight).dtype == torch.uint8
        for number, one in enumerate(theirs[name]):
            assert torch.equal(experts.unpacked(weight, number, kind).T, one), name
            assert torch.equal(experts.as_published(weight, number), one.float()), name
    for name, tensor in loaded.model.state_dict().items():
        assert name.removesuffix("_scales") in kept or torch.equal(tensor, theirs[name]), name
    near = {"float32": 1e-5, "bfloat16": 0.05}[dtype]
    with torch.no_grad():
        found = [one(IDS).logits.float().log_softmax(-1) for one in (loaded.model, expected)]
    torch.testing.assert_close(*found, atol=near, rtol=0)
    streamed = load(Backbone(model=str(folder), dtype=dtype), device="cpu", streamed=True).model
    with torch.no_grad():
        assert torch.equal(streamed(IDS).logits, loaded.model(IDS).logits)


def test_blocks_of_fp8_are_what_transformers_dequantises(tmp_path: Path) -> None:
    folder, _ = made.build(tmp_path / "model", made.Fp8((32, 32)), "qwen3_moe")
    settings = transformers.FineGrainedFP8Config(weight_block_size=(32, 32), dequantize=True)
    for dtype in ("float32", "bfloat16"):
        kind: Any = getattr(torch, dtype)
        expected = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=kind, quantization_config=settings
        )
        model = load(Backbone(model=str(folder), dtype=dtype)).model
        for name, layer in model.named_modules():
            if isinstance(layer, PackedLinear):
                assert torch.equal(layer.weight, expected.get_submodule(name).weight), name
        with torch.no_grad():
            assert torch.equal(model(IDS).logits, expected(IDS).logits)


def test_an_adapter_of_gpt_oss_belongs_to_what_transformers_dequantises(tmp_path: Path) -> None:
    folder = made.gpt_oss(tmp_path / "model")
    adapted = trained(Lora(r=4), load(Backbone(model=str(folder), dtype="float32")).model, "llama")
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    base = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, quantization_config=transformers.Mxfp4Config(dequantize=True)
    )
    before = logits(base, "llama")
    plain = PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(plain, "llama"), logits(adapted, "llama"), atol=1e-4, rtol=0)
    assert (before - logits(adapted, "llama")).abs().max() > 1e-2
