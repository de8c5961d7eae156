"""What cannot be read ends in one sentence that names the model, what is wrong and what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support import packed_checkpoints as made
from support import tiny_models

from ptune.backbone.embedder import load_embedder
from ptune.backbone.load import load, load_codec
from ptune.config.recipe import Backbone, Data, Recipe
from ptune.errors import BackboneError, PtuneError
from ptune.fine_tune import train
from ptune.methods.full import Full
from ptune.methods.lora import Lora

LAYER = "model.layers.1.mlp.up_proj"


def refusal(folder: Path, **said: Any) -> str:
    with pytest.raises(BackboneError) as caught:
        load(Backbone(model=str(folder), **said))
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message or "backbone." in message
    return message


def with_settings(folder: Path, **changes: Any) -> Path:
    config = json.loads((folder / "config.json").read_text())
    made.set_settings(folder, {**config["quantization_config"], **changes})
    return folder


def without(name: str) -> Any:
    return lambda tensors: tensors.pop(f"{LAYER}.{name}")


def cut(name: str) -> Any:
    def change(tensors: made.Tensors) -> None:
        tensors[f"{LAYER}.{name}"] = tensors[f"{LAYER}.{name}"][:-1].contiguous()

    return change


def as_type(name: str, dtype: torch.dtype) -> Any:
    def change(tensors: made.Tensors) -> None:
        tensors[f"{LAYER}.{name}"] = tensors[f"{LAYER}.{name}"].to(dtype)

    return change


def group(value: int) -> Any:
    def change(tensors: made.Tensors) -> None:
        tensors[f"{LAYER}.g_idx"][5] = value

    return change


DAMAGE = {
    ("gptq", "no scales"): (without("scales"), f"{LAYER} lacks its scales"),
    ("gptq", "no zero points"): (without("qzeros"), f"{LAYER} lacks its qzeros"),
    ("gptq", "no integers"): (without("qweight"), f"{LAYER} lacks its qweight"),
    ("gptq", "a row less"): (cut("qzeros"), f"{LAYER} has qzeros of shape [1, 16], where its config asks for [2, 16]"),
    ("gptq", "words of 64 bits"): (as_type("qweight", torch.int64), f"{LAYER} has qweight in int64, not in int32"),
    ("gptq", "a group too many"): (group(9), f"{LAYER} has a column in group 9 of 2 (g_idx)"),
    ("gptq", "a group below 0"): (group(-1), f"{LAYER} has a column in group -1 of 2 (g_idx)"),
    ("awq", "no scales"): (without("scales"), f"{LAYER} lacks its scales"),
    ("awq", "a row less"): (cut("qweight"), f"{LAYER} has the shape [128, 63], which groups of 32"),
    ("fp8", "no scales"): (without("weight_scale_inv"), f"{LAYER}.weight is in float8_e4m3fn, and nothing says"),
    ("fp8", "a row of scales less"): (cut("weight_scale_inv"), f"{LAYER}.weight has scale of shape [3, 2], where its"),
    ("compressed int4", "no scales"): (without("weight_scale"), f"{LAYER} lacks its weight_scale"),
    ("compressed int4", "no shape"): (without("weight_shape"), f"{LAYER} lacks its weight_shape"),
    ("compressed int4", "a row less"): (cut("weight_packed"), f"{LAYER} has weight_packed of shape [127, 8], where its"),
    ("compressed int8 with zeros", "no zero points"): (without("weight_zero_point"), f"{LAYER} lacks its weight_zero_point"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "what"), DAMAGE)
def test_damaged_tensors(tmp_path: Path, name: str, what: str) -> None:
    damage, said = DAMAGE[name, what]
    folder, _ = made.build(tmp_path / "model", made.FORMATS[name])
    assert said in refusal(made.changed(folder, damage))


LIES: dict[tuple[str, str], tuple[dict[str, Any], str]] = {
    ("gptq", "8 bits"): ({"bits": 8}, "where its config asks for"),
    ("gptq", "2 bits"): ({"bits": 2}, "where its config asks for"),
    ("gptq", "5 bits"): ({"bits": 5}, "was saved with bits 5, and ptune reads 2 or 3 or 4 or 8; name its original"),
    ("gptq", "no bits"): ({"bits": None}, "does not say its bits"),
    ("gptq", "another group"): ({"group_size": 64}, "has qzeros of shape [4, 8], where its config asks for [2, 8]"),
    ("gptq", "no group"): ({"group_size": 0}, "was saved with group_size 0"),
    ("gptq", "another layout, in a newer field"): ({"format": "gptq_p"}, "was saved with format 'gptq_p'"),
    ("gptq", "Marlin"): ({"is_marlin_format": True}, "was saved with is_marlin_format True"),
    ("gptq", "another layout"): ({"checkpoint_format": "marlin"}, "was saved with checkpoint_format 'marlin'"),
    ("awq", "another kernel"): ({"version": "gemv"}, "was saved with version 'gemv', and ptune reads 'gemm'"),
    ("awq", "3 bits"): ({"bits": 3}, "was saved with bits 3, and ptune reads 4"),
    ("awq", "no zero points"): ({"zero_point": False}, "was saved with zero_point False"),
    ("fp8", "another block"): ({"weight_block_size": [16, 16]}, "has scale of shape"),
    ("fp8", "no block"): ({"weight_block_size": [128]}, "was saved with weight_block_size [128]"),
    ("fp8", "e5m2"): ({"fmt": "e5m2"}, "was saved with fmt 'e5m2'"),
    ("compressed int4", "no groups"): ({"config_groups": {}}, "does not say how its layers were quantised"),
    ("compressed int4", "sparse"): (
        {"sparsity_config": {"format": "sparse-24-bitmask"}}, "was saved with sparse weights (sparse-24-bitmask)",
    ),
    ("compressed int4", "transformed"): (
        {"transform_config": {"config_groups": {"R1": {}}}}, "was saved with transformed weights",
    ),
    ("compressed int4", "nvfp4"): ({"format": "nvfp4-pack-quantized"}, "was saved with format 'nvfp4-pack-quantized'"),
    ("gptq", "unknown"): ({"quant_method": "hqq"}, "was saved in hqq, and ptune reads bitsandbytes, gptq, awq, fp8"),
    ("awq", "of another format"): ({"quant_method": "gptq"}, "where its config asks for"),
    ("gptq", "nothing packed"): ({"quant_method": "fp8"}, "no weight in it is packed (there is no *_scale_inv)"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "what"), LIES)
def test_a_config_that_does_not_tell_the_truth(tmp_path: Path, name: str, what: str) -> None:
    changes, said = LIES[name, what]
    folder, _ = made.build(tmp_path / "model", made.FORMATS[name])
    assert said in refusal(with_settings(folder, **changes))


def test_a_cut_file(tmp_path: Path) -> None:
    folder, _ = made.build(tmp_path / "model", made.FORMATS["gptq"])
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    assert "cannot load backbone.model" in refusal(folder)


def test_a_shape_that_the_model_does_not_have(tmp_path: Path) -> None:
    folder, _ = made.build(tmp_path / "model", made.FORMATS["gptq"])
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 96}))
    assert "stands for a weight of [64, 128], where the model's config asks for [64, 96]" in refusal(folder)


def test_another_way_to_hold_it_is_refused(tmp_path: Path) -> None:
    folder, _ = made.build(tmp_path / "model", made.FORMATS["gptq"])
    said = refusal(folder, quantize="nf4")
    assert "is stored in gptq: leave out --backbone.quantize nf4, or name its original weights" in said
    assert "is stored in gptq" in refusal(folder, quantize="awq")
    assert "backbone.keep_layers" in refusal(folder, keep_layers=(0,))
    plain = tiny_models.build(tmp_path / "plain")
    assert "backbone.quantize 'gptq' is for models that are stored in it" in refusal(plain, quantize="gptq")


def test_weights_of_pickle_are_refused(tmp_path: Path) -> None:
    folder, _ = made.build(tmp_path / "model", made.FORMATS["gptq"])
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert "pytorch_model.bin is no safetensors file" in refusal(folder)


def test_other_tasks_refuse_it(tmp_path: Path) -> None:
    folder, _ = made.build(tmp_path / "model", made.FORMATS["gptq"])
    spec = Backbone(model=str(folder))
    load_codec(spec)
    with pytest.raises(
        BackboneError, match="is stored in gptq, which chat alone takes: name its original weights"
    ):
        load_embedder(spec, "mean", True)


@pytest.mark.parametrize("method", [Lora(r=2), Lora(r=2, init="loftq"), Full()])
def test_a_training_that_is_refused_leaves_nothing(tmp_path: Path, method: Any) -> None:
    """For damage, for a method that compares with the original weights, and for one that trains them."""
    folder, _ = made.build(tmp_path / "model", made.FORMATS["gptq"])
    if method == Lora(r=2):
        made.changed(folder, without("scales"))
    tiny_models.write_jsonl(tmp_path / "data.jsonl", tiny_models.conversations(12))
    recipe = Recipe(
        backbone=Backbone(model=str(folder)), method=method, data=Data(files=(tmp_path / "data.jsonl",))
    )
    with pytest.raises(PtuneError, match="stored in gptq") as caught:
        train(recipe, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "run.json").exists()
    assert not [path for path in (tmp_path / "run").rglob("*") if path.is_file()]


def test_scales_of_activations_that_the_model_would_need(tmp_path: Path) -> None:
    """AWQ scales the activations of some families, in a layer of its own."""
    folder, _ = made.build(tmp_path / "model", made.FORMATS["awq"])

    def scaled(tensors: made.Tensors) -> None:
        tensors["model.layers.0.mlp.act_fn.scales"] = torch.ones(128)

    assert "model.layers.0.mlp.act_fn lacks its qweight" in refusal(made.changed(folder, scaled))


def test_layers_that_are_stored_turned_round(tmp_path: Path) -> None:
    folder = tiny_models.build(tmp_path / "model", "gpt2")
    layer, write = "transformer.h.0.attn.c_proj", made.Gptq()

    def pack(tensors: made.Tensors) -> None:
        tensors |= write(layer, tensors.pop(f"{layer}.weight"))[0]

    made.set_settings(made.changed(folder, pack), write.settings())
    assert f"{layer}.weight is the weight of a Conv1D" in refusal(folder)
