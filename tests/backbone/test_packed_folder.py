"""A folder whose weights bitsandbytes packed is read as it is, or refused in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from bitsandbytes.nn import Linear4bit
from support import tiny_models

from ptune.backbone.load import load
from ptune.backbone.quantize import Int8Linear, Nf4Linear
from ptune.config.recipe import Backbone, Data, Recipe, Train
from ptune.errors import BackboneError
from ptune.fine_tune import train
from ptune.methods.lora import Lora
from ptune.publish import export_run

IDS = torch.arange(5, 45)[None]


def packed(folder: Path, family: str = "llama", dtype: torch.dtype = torch.float32, **settings: Any) -> Path:
    """Has transformers quantise a tiny model and save it in `folder`; its original, in `dtype`, is beside it."""
    original = tiny_models.build(folder.parent / "original", family)
    if dtype != torch.float32:
        tiny_models.model(family).to(dtype).save_pretrained(original)
    config = transformers.BitsAndBytesConfig(
        **{"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", **settings}
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(
        original, dtype=dtype, quantization_config=config, device_map={"": "cpu"}
    )
    model.save_pretrained(folder)
    tiny_models.tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_it_is_the_model_that_transformers_reads(tmp_path: Path, family: str, double: bool) -> None:
    folder = packed(tmp_path / "packed", family, bnb_4bit_use_double_quant=double)
    expected = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, device_map={"": "cpu"}
    )
    loaded = load(Backbone(model=str(folder), quantize="nf4", dtype="float32"))
    expected.train()  # an evaluation on a CPU would repack its bytes for a kernel in bfloat16
    with torch.no_grad():
        there = expected(IDS).logits.log_softmax(-1)
        torch.testing.assert_close(loaded.model(IDS).logits.log_softmax(-1), there, rtol=0, atol=1e-6)
    layers = {name for name, layer in expected.named_modules() if isinstance(layer, Linear4bit)}
    assert (
        layers == {name for name, layer in loaded.model.named_modules() if type(layer) is Nf4Linear} != set()
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_is_the_base_that_the_original_weights_give(tmp_path: Path, dtype: Any) -> None:
    """So an adapter that was trained on one is served on the other."""
    folder = packed(tmp_path / "packed", dtype=torch.bfloat16, bnb_4bit_use_double_quant=True)
    spec = Backbone(model=str(folder), quantize="nf4", dtype=dtype)
    ready, own = load(spec), load(spec.model_copy(update={"model": str(tmp_path / "original")}))
    assert ready.identity.hash == own.identity.hash
    assert ready.identity.parameters == own.identity.parameters
    with torch.no_grad():
        assert torch.equal(ready.model(IDS).logits, own.model(IDS).logits)


def test_eight_bits(tmp_path: Path) -> None:
    folder = packed(tmp_path / "packed", load_in_4bit=False, load_in_8bit=True)
    spec = Backbone(model=str(folder), quantize="int8", dtype="float32")
    ready, own = load(spec), load(spec.model_copy(update={"model": str(tmp_path / "original")}))
    assert ready.identity.hash == own.identity.hash
    assert any(type(layer) is Int8Linear for layer in ready.model.modules())


def test_it_is_trained_and_exported_on_its_bytes(tmp_path: Path) -> None:
    folder = packed(tmp_path / "packed", bnb_4bit_use_double_quant=True)
    tiny_models.write_jsonl(tmp_path / "data.jsonl", tiny_models.conversations(12))
    recipe = Recipe(
        backbone=Backbone(model=str(folder), dtype="float32"),  # as it is stored
        method=Lora(r=2),
        data=Data(files=(tmp_path / "data.jsonl",), validation_share=0.3),
        train=Train(max_steps=2, lr=2e-2, batch_size=4),
    )
    run = train(recipe, tmp_path / "run")
    assert run.record().base.quantize == Recipe.load(run.recipe_path).backbone.quantize == "nf4"
    proof = export_run(run, tmp_path / "bundle", name="ready", threads=1, profiles=("nf4",))
    assert proof.passed


def refusal(folder: Path, quantize: Any = "nf4") -> str:
    with pytest.raises(BackboneError) as caught:
        load(Backbone(model=str(folder), quantize=quantize))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_what_ptune_does_not_have_is_refused(tmp_path: Path) -> None:
    folder = packed(tmp_path / "packed")
    assert "stored in nf4: leave out --backbone.quantize int8" in refusal(folder, "int8")
    config = json.loads((folder / "config.json").read_text())
    for changed, said in {
        ("quant_method", "hqq"): "was saved in hqq, and ptune reads bitsandbytes, gptq",
        ("bnb_4bit_quant_type", "fp4"): "bnb_4bit_quant_type 'fp4', and ptune reads 'nf4'",
        ("bnb_4bit_quant_storage", "bfloat16"): "bnb_4bit_quant_storage 'bfloat16'",
    }.items():
        name, value = changed
        settings = {**config["quantization_config"], name: value}
        (folder / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))
        assert said in refusal(folder)


def test_a_quantised_head_is_refused(tmp_path: Path) -> None:
    folder = packed(tmp_path / "packed", llm_int8_skip_modules=["nothing"])
    assert "output head quantised" in refusal(folder)


def test_layers_that_were_left_out_stay_as_they_are(tmp_path: Path) -> None:
    folder = packed(tmp_path / "packed", llm_int8_skip_modules=["lm_head", "down_proj"])
    model = load(Backbone(model=str(folder), quantize="nf4", dtype="float32")).model
    assert type(model.model.layers[0].mlp.down_proj) is torch.nn.Linear
    assert type(model.model.layers[0].mlp.up_proj) is Nf4Linear
