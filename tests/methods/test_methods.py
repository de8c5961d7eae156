"""Each method trains what it says and nothing else."""

from __future__ import annotations

import pytest
import torch
import transformers
from support import tiny_models
from torch import nn

from ptune.errors import RecipeError
from ptune.methods.freeze import FreezeExceptLast
from ptune.methods.full import Full
from ptune.methods.lora import Lora


def trained(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
@pytest.mark.parametrize("method", [Lora, FreezeExceptLast, Full])
def test_every_method_of_a_recipe_trains_something_in_every_family(method: type, family: str) -> None:
    assert trained(method().apply(tiny_models.model(family)))


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_lora_adapts_every_linear_layer_but_the_head(family: str) -> None:
    plain = tiny_models.model(family)
    kinds = (nn.Linear, transformers.pytorch_utils.Conv1D)
    linears = {name for name, layer in plain.named_modules() if isinstance(layer, kinds)}
    model = Lora(r=2).apply(tiny_models.model(family))
    adapted = {name.removeprefix("base_model.model.").partition(".lora_")[0] for name in trained(model)}
    assert adapted == linears - {"lm_head", "embed_out"}


def test_lora_scales_as_it_says() -> None:
    for method, expected in ((Lora(r=16, alpha=32), 2.0), (Lora(r=16, alpha=32, rslora=True), 8.0)):
        layer = method.apply(tiny_models.model("llama")).base_model.model.model.layers[0].mlp.up_proj
        assert layer.scaling["default"] == expected


def test_the_adapter_of_a_16_bit_base_is_float32() -> None:
    model = Lora(r=2).apply(tiny_models.model("llama").bfloat16())
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}


def test_a_target_that_fits_no_layer_is_told_the_nearest_even_beside_one_that_does() -> None:
    with pytest.raises(RecipeError, match="no layer named 'v_porj'; did you mean 'v_proj'"):
        Lora(target_modules=("q_proj", "v_porj")).apply(tiny_models.model("llama"))
    model = Lora(r=2, target_modules=("q_proj", "mlp.up_proj")).apply(tiny_models.model("llama"))
    assert {name.partition(".lora_")[0].rpartition(".")[2] for name in trained(model)} == {
        "q_proj",
        "up_proj",
    }


def test_freeze_trains_the_last_blocks_and_the_norm_after_them() -> None:
    model = FreezeExceptLast(layers=2).apply(tiny_models.model("llama", num_hidden_layers=3))
    blocks = {
        name
        for name, _ in model.named_parameters()
        if name.startswith(("model.layers.1.", "model.layers.2."))
    }
    assert trained(model) == blocks | {"model.norm.weight"}


def test_experts_are_not_taken_for_blocks() -> None:
    blocks = nn.ModuleList(
        nn.ModuleDict({"experts": nn.ModuleList(nn.Linear(2, 2) for _ in range(8))}) for _ in range(3)
    )
    model = nn.ModuleDict({"blocks": blocks, "norm": nn.LayerNorm(2), "head": nn.Linear(2, 2)})
    names = trained(FreezeExceptLast(layers=1).apply(model))
    assert {name.rpartition(".")[0] for name in names} == {
        *(f"blocks.2.experts.{i}" for i in range(8)),
        "norm",
    }


def test_more_blocks_than_there_are_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"method\.layers is 3, but the model has 2 blocks"):
        FreezeExceptLast(layers=3).apply(tiny_models.model("llama"))


def test_full_trains_everything() -> None:
    model = Full().apply(tiny_models.model("llama").requires_grad_(False))
    assert trained(model) == {name for name, _ in model.named_parameters()}
