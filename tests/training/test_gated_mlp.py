"""Gated MLPs keep gate and up alone for the gradient, and change no bit of logits and gradients."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from support import tiny_models
from torch import nn

from ptune.backbone.quantize import quantize
from ptune.config.recipe import Recipe, Train
from ptune.methods.lora import Lora
from ptune.training.layers.gated_mlp import with_gated_products
from ptune.training.layers.lora_product import with_lora_products
from ptune.training.preparation import applied, checkpoint_layers

IDS = torch.arange(5, 45).view(2, 20)
GATED = ("llama", "qwen3", "gemma2", "gemma3")


def adapted(family: str, kind: str = "none", dtype: torch.dtype = torch.float32, **options: Any) -> nn.Module:
    """A tiny model with an adapter that does something, as it is trained but for the gated MLPs."""
    model = tiny_models.model(family).to(dtype)
    model.requires_grad_(False)
    if kind != "none":
        quantize(model, kind)  # type: ignore[arg-type]
    settings: dict[str, Any] = {"r": 4, "target_modules": "all-linear", "init_lora_weights": False}
    torch.manual_seed(0)
    return with_lora_products(
        cast(PeftModel, get_peft_model(model, LoraConfig(**(settings | options)))).train()
    )


def numbers(model: nn.Module) -> dict[str, torch.Tensor]:
    """The logits, and the gradient of each factor for one loss."""
    torch.manual_seed(1)  # dropout
    logits = model(IDS).logits
    nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), IDS[:, 1:].flatten()).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return {"logits": logits.detach(), **gradients}


def kept(model: nn.Module) -> int:
    """Bytes that are kept for the gradient of one pass."""
    storages: dict[int, int] = {}
    held: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        held.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(IDS)
    return sum(storages.values())


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def replaced(model: nn.Module) -> int:
    return sum("forward" in vars(module) and hasattr(module, "down_proj") for module in model.modules())


@pytest.mark.parametrize("kind", ["none", "nf4", "int8"])
@pytest.mark.parametrize("family", GATED)
def test_no_bit_changes_and_less_is_kept(family: str, kind: str) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        model = adapted(family, kind, dtype)
        there, before = numbers(model), kept(model)
        assert replaced(with_gated_products(model)) == len(
            model.get_submodule("base_model.model.model.layers")
        )
        assert same(numbers(model), there)
        wide = model.get_submodule("base_model.model").config.intermediate_size * IDS.numel() * dtype.itemsize
        assert kept(model) <= before - 2 * wide * replaced(model)


def test_checkpointing_changes_no_bit() -> None:
    model = with_gated_products(adapted("llama"))
    plain = numbers(model)
    checkpoint_layers(model.get_submodule("base_model.model"))
    assert same(numbers(model), plain)


@pytest.mark.parametrize(
    "options", [{"lora_dropout": 0.5}, {"use_dora": True}, {"target_modules": ["q_proj", "gate_proj"]}]
)
def test_what_is_no_plain_update_of_the_last_layer_stays_as_it_is(options: dict[str, Any]) -> None:
    model = adapted("llama", **options)
    there = numbers(model)
    assert same(numbers(with_gated_products(model)), there)


def test_an_activation_that_gives_its_input_back_stays_as_it_is() -> None:
    """It would be overwritten, and the gradient be one of other numbers."""
    torch.manual_seed(0)
    model = tiny_models.model("llama", hidden_act="linear").requires_grad_(False)
    config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    wrapped = cast(PeftModel, get_peft_model(model, config)).train()
    there = numbers(wrapped)
    assert same(numbers(with_gated_products(wrapped)), there)


def test_models_with_another_mlp_stay_as_they_are() -> None:
    assert replaced(with_gated_products(adapted("gpt2"))) == 0

    class Clipped(nn.Module):
        """Looks gated, and limits its gate."""

        def __init__(self) -> None:
            super().__init__()
            self.gate_proj, self.up_proj, self.down_proj = (nn.Linear(4, 4) for _ in range(3))
            self.act_fn = nn.SiLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return cast(
                torch.Tensor, self.down_proj(self.act_fn(self.gate_proj(x)).clamp(max=1) * self.up_proj(x))
            )

    assert replaced(with_gated_products(nn.Sequential(Clipped()))) == 0


def test_the_switch_leaves_a_model_as_peft_makes_it() -> None:
    def prepared(fast: bool) -> nn.Module:
        recipe = Recipe(method=Lora(r=3), train=Train(fast=fast))
        model = applied(recipe, tiny_models.model("llama").requires_grad_(False)).train()
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.manual_seed(len(name))
                nn.init.normal_(parameter, std=0.1)
        return model

    plain, fast = prepared(False), prepared(True)
    assert not any("forward" in vars(module) for module in plain.modules())
    there, here = numbers(plain), numbers(fast)
    assert here.keys() == there.keys()
    for name in there:
        torch.testing.assert_close(here[name], there[name], rtol=1e-4, atol=1e-5)
