"""The experts of a mixture are unpacked as they are read; its other layers stay packed."""

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


def gpt_oss(folder: Path) -> Path:
    """A tiny gpt-oss whose experts are in MXFP4, as it is published."""
    config = transformers.GptOssConfig(
        vocab_size=tiny_models.VOCAB, hidden_size=64, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, num_local_experts=4, num_experts_per_tok=2, sliding_window=8,
        max_position_embeddings=tiny_models.CONTEXT, initializer_range=0.2, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tiny_models.tokenizer().save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
        packed, _ = made.mxfp4(name, tensors.pop(name))
        tensors |= packed
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    made.set_settings(
        folder, {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}
    )
    return folder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gpt_oss_is_what_transformers_dequantises(tmp_path: Path, dtype: Any) -> None:
    folder = gpt_oss(tmp_path / "model")
    settings = transformers.Mxfp4Config(dequantize=True)
    kind = getattr(torch, dtype)
    expected = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=kind, quantization_config=settings
    )
    loaded = load(Backbone(model=str(folder), dtype=dtype))
    assert loaded.identity.quantize == "mxfp4"
    theirs = expected.state_dict()
    assert theirs.keys() == loaded.model.state_dict().keys()
    for name, weight in loaded.model.state_dict().items():
        assert torch.equal(weight, theirs[name]), name
    with torch.no_grad():
        assert torch.equal(loaded.model(IDS).logits, expected(IDS).logits)


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
    folder = gpt_oss(tmp_path / "model")
    adapted = trained(Lora(r=4), load(Backbone(model=str(folder), dtype="float32")).model, "llama")
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    base = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, quantization_config=transformers.Mxfp4Config(dequantize=True)
    )
    before = logits(base, "llama")
    plain = PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    assert torch.equal(logits(plain, "llama"), logits(adapted, "llama"))
    assert not torch.equal(before, logits(adapted, "llama"))
