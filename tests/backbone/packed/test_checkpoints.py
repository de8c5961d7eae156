"""A ready-made checkpoint is read as it is stored: the same model as one of the weights that it stands for, in fewer bytes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file
from support import packed_checkpoints as made
from support import tiny_models
from torch import nn

from ptune.backbone.float32 import Float32Linear, held_bytes, in_float32
from ptune.backbone.identity import weights_hash
from ptune.backbone.load import load
from ptune.backbone.packed.linear import PackedLinear
from ptune.config.recipe import Backbone, Recipe
from ptune.errors import BackboneError

IDS = torch.arange(5, 45)[None]


def plain(folder: Path, values: made.Tensors, family: str = "llama") -> transformers.PreTrainedModel:
    """transformers' model of the weights that a checkpoint stands for, in float32."""
    model = tiny_models.model(family)
    lacking = model.load_state_dict(values, strict=False).missing_keys
    assert not [name for name in lacking if not name.endswith(("norm.weight", ".bias"))]
    return model


@pytest.mark.parametrize("name", made.FORMATS)
def test_it_is_the_model_of_the_weights_that_it_stands_for(tmp_path: Path, name: str) -> None:
    folder, values = made.build(tmp_path / "model", made.FORMATS[name])
    loaded = load(Backbone(model=str(folder), dtype="float32"))
    expected = plain(folder, values)
    with torch.no_grad():
        assert torch.equal(loaded.model(IDS).logits, expected(IDS).logits)
    packed = {name for name, layer in loaded.model.named_modules() if isinstance(layer, PackedLinear)}
    assert packed == {name.removesuffix(".weight") for name in values if "_proj" in name}
    identity = loaded.identity
    assert identity.quantize == made.FORMATS[name].settings()["quant_method"]
    assert identity.parameters == sum(one.numel() for one in expected.parameters())
    assert identity.hash == load(Backbone(model=str(folder), quantize=identity.quantize)).identity.hash
    in_float32(loaded.model)  # the reference of what is served
    with torch.no_grad():
        assert torch.equal(loaded.model(IDS).logits, expected(IDS).logits)


@pytest.mark.parametrize("name", ["gptq", "awq", "fp8", "compressed int4"])
def test_it_stays_packed(tmp_path: Path, name: str) -> None:
    folder, values = made.build(tmp_path / "model", made.FORMATS[name])
    model = load(Backbone(model=str(folder))).model
    stored = load_file(folder / "model.safetensors")
    kept = sum(
        part.nbytes
        for layer in model.modules()
        if isinstance(layer, PackedLinear)
        for part in layer.parts.values()
    )
    in_file = sum(one.nbytes for name, one in stored.items() if "_proj" in name)
    assert kept <= in_file
    weights = sum(one.nbytes for name, one in values.items() if "_proj" in name)
    assert kept < weights / 3
    before = held_bytes(model)
    in_float32(model)
    ends = sum(one.nbytes for name, one in values.items() if "_proj" not in name)
    assert held_bytes(model) <= before + ends


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["gptq", "awq", "fp8", "compressed fp8"])
def test_other_types_are_rounded_once(tmp_path: Path, name: str, dtype: Any) -> None:
    folder, values = made.build(tmp_path / "model", made.FORMATS[name])
    model = load(Backbone(model=str(folder), dtype=dtype)).model
    kind = getattr(torch, dtype)
    for layer, packed in model.named_modules():
        if isinstance(packed, PackedLinear):
            assert torch.equal(packed.weight, values[f"{layer}.weight"].to(kind))
            assert torch.equal(packed.dequantised(), values[f"{layer}.weight"])
    assert model.lm_head.weight.dtype == kind


@pytest.mark.parametrize("training", [True, False])
def test_gradients_are_those_of_the_weights(tmp_path: Path, training: bool) -> None:
    folder, _ = made.build(tmp_path / "model", made.FORMATS["gptq"], "qwen2")  # with biases
    model = load(Backbone(model=str(folder), dtype="float32")).model.train(training)
    layer = model.model.layers[0].self_attn.q_proj
    assert isinstance(layer, PackedLinear)
    bias = layer.bias.detach() + 0.5
    layer.bias = nn.Parameter(bias.clone())
    other = bias.clone().requires_grad_()
    x = torch.randn(2, 7, layer.in_features, requires_grad=True)
    copied = x.detach().clone().requires_grad_()
    weight = layer.dequantised().clone()
    layer(x).square().sum().backward()
    F.linear(copied, weight, other).square().sum().backward()
    torch.testing.assert_close(x.grad, copied.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(layer.bias.grad, other.grad, rtol=1e-5, atol=1e-5)


def test_the_hash_knows_every_bit(tmp_path: Path) -> None:
    folder, _ = made.build(tmp_path / "model", made.FORMATS["awq"])
    model = load(Backbone(model=str(folder))).model
    before = weights_hash(model)
    for layer in (one for one in model.modules() if isinstance(one, PackedLinear)):
        for part in layer.parts.values():
            changed = part.data.clone()
            changed.view(torch.uint8).flatten()[3] ^= 1
            kept, part.data = part.data, changed
            assert weights_hash(model) != before
            part.data = kept
    assert weights_hash(model) == before


def test_a_copy_is_a_model_of_its_own(tmp_path: Path) -> None:
    folder, _ = made.build(tmp_path / "model", made.FORMATS["gptq"])
    model = load(Backbone(model=str(folder), dtype="float32")).model
    other = copy.deepcopy(model)
    with torch.no_grad():
        assert torch.equal(other(IDS).logits, model(IDS).logits)
    in_float32(other)
    assert any(isinstance(one, Float32Linear) for one in other.modules())
    assert not any(isinstance(one, Float32Linear) for one in model.modules())


def test_a_packed_head_is_unpacked(tmp_path: Path) -> None:
    folder, values = made.build(tmp_path / "model", made.FORMATS["gptq"], more=["lm_head"])
    model = load(Backbone(model=str(folder), dtype="float32")).model
    assert type(model.lm_head) is nn.Linear
    assert torch.equal(model.lm_head.weight, values["lm_head.weight"])


def test_a_bias_of_zeros_that_the_model_lacks_is_left_out(tmp_path: Path) -> None:
    folder, values = made.build(tmp_path / "model", made.FORMATS["gptq"])
    layer = "model.layers.0.self_attn.q_proj"

    def with_bias(value: float) -> None:
        tensors = load_file(folder / "model.safetensors")
        tensors[f"{layer}.bias"] = torch.full((64,), value, dtype=torch.float16)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    with_bias(0.0)
    with torch.no_grad():
        expected = plain(folder, values)(IDS).logits
        assert torch.equal(load(Backbone(model=str(folder), dtype="float32")).model(IDS).logits, expected)
    with_bias(0.5)
    with pytest.raises(BackboneError, match="has a bias, which the model has no place for"):
        load(Backbone(model=str(folder)))


def test_scales_of_activations_and_of_the_cache_are_left_out(tmp_path: Path) -> None:
    folder, values = made.build(tmp_path / "model", made.FORMATS["compressed fp8, one scale"])

    def more(tensors: made.Tensors) -> None:
        tensors["model.layers.0.mlp.up_proj.input_scale"] = torch.tensor([0.5])
        tensors["model.layers.0.self_attn.k_scale"] = torch.tensor([2.0])

    made.changed(folder, more)
    with torch.no_grad():
        expected = plain(folder, values)(IDS).logits
        assert torch.equal(load(Backbone(model=str(folder), dtype="float32")).model(IDS).logits, expected)


def test_groups_of_the_config_say_what_a_layer_is_in(tmp_path: Path) -> None:
    """By name, by a pattern, and all others."""

    class Mixed:
        words, fp8 = made.Compressed(), made.Compressed("float-quantized", 8, "float", "channel", None)

        def settings(self) -> dict[str, Any]:
            groups = {
                "group_0": {**self.words.settings()["config_groups"]["group_0"], "format": "pack-quantized"},
                "group_1": {
                    **self.fp8.settings()["config_groups"]["group_0"],
                    "format": "float-quantized",
                    "targets": ["re:.*mlp.*", "model.layers.1.self_attn.q_proj"],
                },
            }
            return {**self.words.settings(), "format": "mixed-precision", "config_groups": groups}

        def __call__(self, layer: str, weight: torch.Tensor) -> Any:
            fp8 = "mlp" in layer or layer == "model.layers.1.self_attn.q_proj"
            return (self.fp8 if fp8 else self.words)(layer, weight)

    folder, values = made.build(tmp_path / "model", Mixed())
    with torch.no_grad():
        expected = plain(folder, values)(IDS).logits
        assert torch.equal(load(Backbone(model=str(folder), dtype="float32")).model(IDS).logits, expected)


def test_layers_are_streamed_packed(tmp_path: Path) -> None:
    folder, _ = made.build(tmp_path / "model", made.FORMATS["gptq"])
    spec = Backbone(model=str(folder), dtype="float32")
    with torch.no_grad():
        streamed = load(spec, streamed=True).model
        assert torch.equal(streamed(IDS).logits, load(spec).model(IDS).logits)


@pytest.mark.parametrize("name", ["gptq", "fp8"])
def test_the_recipe_takes_it_as_it_is(tmp_path: Path, name: str) -> None:
    """Nothing is said of it but where it is; a method that trains weights is refused."""
    from accelerate import Accelerator

    from ptune.errors import RecipeError
    from ptune.methods.full import Full
    from ptune.training.preparation import resolved

    folder, _ = made.build(tmp_path / "model", made.FORMATS[name])
    recipe = Recipe(backbone=Backbone(model=str(folder)))
    assert resolved(recipe, Accelerator(cpu=True)).backbone.quantize == name
    full = recipe.model_copy(update={"method": Full()})
    with pytest.raises(
        RecipeError, match=f"is stored in {name}: backbone.quantize '{name}' needs method Lora"
    ):
        resolved(full, Accelerator(cpu=True))
