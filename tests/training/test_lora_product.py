"""LoRA's update beside its base as one operation: peft's numbers, gradients included, and peft itself for all that is no plain update."""

from __future__ import annotations

import copy
from typing import Any, cast

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from support import tiny_models
from torch import nn

from ptune.backbone.quantize import quantize
from ptune.training.layers import float_products, lora_product
from ptune.training.layers.lora_product import LoraProduct, with_lora_products
from ptune.training.preparation import checkpoint_layers

IDS = torch.arange(5, 45).view(2, 20)
KINDS = ("none", "nf4", "int8")


def adapted(kind: str = "none", dtype: torch.dtype = torch.float32, **options: Any) -> PeftModel:
    """A tiny Qwen2, whose layers have biases and not, with an adapter that does something; in training mode."""
    model = tiny_models.model("qwen2").to(dtype)
    model.requires_grad_(False)
    if kind != "none":
        quantize(model, kind)  # type: ignore[arg-type]
    settings: dict[str, Any] = {
        "r": 4,
        "lora_alpha": 12,
        "target_modules": "all-linear",
        "init_lora_weights": False,
    }
    torch.manual_seed(0)
    return cast(PeftModel, get_peft_model(model, LoraConfig(**(settings | options))).train())


def numbers(model: nn.Module) -> dict[str, torch.Tensor]:
    """The logits, and the gradient of each factor for one loss."""
    torch.manual_seed(1)  # dropout
    logits = model(IDS).logits
    nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), IDS[:, 1:].flatten()).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return {"logits": logits.detach(), **gradients}


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.double() - other.double()).norm() / other.double().norm())


@pytest.mark.parametrize("one_dnn", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_the_numbers_are_those_of_peft(kind: str, one_dnn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (float_products, lora_product):
        monkeypatch.setattr(module, "by_one_dnn", lambda: one_dnn)
    model = adapted(kind)
    there = numbers(model)
    here = numbers(with_lora_products(model))
    assert here.keys() == there.keys()
    assert len(here) == 1 + 2 * 14  # two factors for each of seven layers in two blocks
    assert max(distance(here[name], there[name]) for name in here) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_in_bfloat16_it_is_as_near_to_float32_as_peft_is(kind: str) -> None:
    """What is left of a hundredth or more is the base's rounding, which peft has as well."""
    exact = adapted(kind)

    def rounded() -> nn.Module:
        """The same base in bfloat16; factors stay float32."""
        model = copy.deepcopy(exact).bfloat16()
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data = parameter.data.float()
        return model

    there, of_peft, here = numbers(exact), numbers(rounded()), numbers(with_lora_products(rounded()))

    def mean(found: dict[str, torch.Tensor]) -> float:
        return sum(distance(found[name], there[name]) for name in there) / len(there)

    assert all(value.dtype == torch.float32 for name, value in here.items() if "lora_" in name)
    assert mean(here) < 1.1 * mean(of_peft)


def test_gradients_of_one_layer_in_bfloat16_are_within_a_hundredth() -> None:
    torch.manual_seed(2)
    a, b, x = torch.randn(8, 64) / 8, torch.randn(96, 8) / 3, torch.randn(2, 50, 64)
    base, upstream = nn.Linear(64, 96).requires_grad_(False), torch.randn(2, 50, 96)

    def gradients(dtype: torch.dtype) -> list[torch.Tensor]:
        inputs = [x.to(dtype).requires_grad_(), a.clone().requires_grad_(), b.clone().requires_grad_()]
        out = LoraProduct.apply(*inputs, 2.0, copy.deepcopy(base).to(dtype))
        return list(torch.autograd.grad(out, inputs, upstream.to(dtype)))

    for here, there in zip(gradients(torch.bfloat16), gradients(torch.float32), strict=True):
        assert distance(here, there) < 0.01


def test_checkpointing_changes_no_bit() -> None:
    model = with_lora_products(adapted())
    plain = numbers(model)
    checkpoint_layers(model.get_base_model())
    model.enable_input_require_grads()
    again = numbers(model)
    assert all(torch.equal(plain[name], again[name]) for name in plain)


@pytest.mark.parametrize("options", [{"lora_dropout": 0.5}, {"use_dora": True}, {"lora_bias": True}])
def test_what_is_no_plain_update_is_computed_by_peft(options: dict[str, Any]) -> None:
    model = adapted(**options)
    there, here = numbers(model), numbers(with_lora_products(model))
    assert all(torch.equal(here[name], there[name]) for name in there)


def test_adapters_can_be_switched_off_changed_and_mixed() -> None:
    model = with_lora_products(adapted()).eval()
    assert isinstance(model, PeftModel)
    base = tiny_models.model("qwen2")
    with torch.no_grad(), model.disable_adapter():
        assert torch.equal(model(IDS).logits, base(IDS).logits)
    first = model(IDS).logits
    torch.manual_seed(5)
    model.add_adapter("other", model.peft_config["default"])
    mixed = model(IDS, adapter_names=["default", "other"]).logits
    model.set_adapter("other")
    other = model(IDS).logits
    assert (first - other).abs().max() > 1e-3
    torch.testing.assert_close(mixed[0], first[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mixed[1], other[1], rtol=1e-4, atol=1e-5)


def test_the_head_that_an_adapter_also_changes() -> None:
    model = adapted(target_modules=["q_proj", "lm_head"])
    there, here = numbers(model), numbers(with_lora_products(model))
    assert max(distance(here[name], there[name]) for name in there) < 1e-5


def test_x_is_kept_once_for_all_layers_that_read_it() -> None:
    """Queries, keys and values read one x; peft's layers keep it too, but in bfloat16 each keeps a float32 copy."""

    def kept(model: nn.Module) -> int:
        storages: dict[int, int] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            held.append(tensor)
            return tensor

        held: list[torch.Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(IDS)
        return sum(storages.values())

    model = adapted(dtype=torch.bfloat16)
    before = kept(model)
    assert kept(with_lora_products(model)) < 0.8 * before
