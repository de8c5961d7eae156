"""Factors that begin with the training's own rows: PEFT's, the same each time, and plain LoRA when they are saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import EvaConfig, LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.eva import get_eva_state_dict
from support import tiny_models
from support.every_method import begun, inputs, logits

from ptune.backbone.quantize import quantize
from ptune.errors import RecipeError
from ptune.methods.lora import Lora

TARGETS = {"gpt2": ("c_attn", "c_proj"), "llama": ("q_proj", "k_proj", "down_proj")}
BATCHES = [torch.randint(3, 400, (2, 40), generator=torch.Generator().manual_seed(seed)) for seed in range(6)]


def calibrated(method: Lora, family: str) -> Any:
    model = begun(method, tiny_models.model(family), family)
    method.calibrate(model, [lambda ids=ids: model(input_ids=ids).logits.sum() for ids in BATCHES])  # type: ignore[misc]
    return model


def factors(model: Any) -> dict[str, torch.Tensor]:
    return {name: one.detach() for name, one in model.named_parameters() if ".lora_A." in name}


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_eva_begins_with_the_directions_of_peft(family: str) -> None:
    ours = factors(calibrated(Lora(r=4, init="eva", target_modules=TARGETS[family]), family))
    config = LoraConfig(
        r=4, target_modules=list(TARGETS[family]), init_lora_weights="eva", task_type="CAUSAL_LM",
        eva_config=EvaConfig(rho=1.0, tau=0.99), fan_in_fan_out=family == "gpt2",
    )  # fmt: skip
    theirs = get_peft_model(tiny_models.model(family), config)
    rows: Any = [{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in BATCHES]
    found = get_eva_state_dict(theirs, rows, show_progress_bar=False)
    assert len(ours) == len(found)
    for name, directions in found.items():
        own = ours[f"{name}.lora_A.default.weight"]
        assert (own @ own.T - torch.eye(4)).abs().max() < 1e-4
        overlap = torch.linalg.svdvals(own @ directions.float().T)  # cosines of the angles between both subspaces
        assert overlap[:2].min() > 0.95, name
        assert overlap.mean() > 0.8, name


def test_directions_hold_more_of_the_inputs_than_random_ones() -> None:
    model = calibrated(Lora(r=4, init="eva", target_modules=("q_proj", "v_proj")), "llama")
    layer, seen = model.base_model.model.model.layers[1].self_attn.q_proj, []
    handle = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].flatten(0, 1)))
    for ids in BATCHES:
        with torch.no_grad():
            model(input_ids=ids)
    handle.remove()
    centred = torch.cat(seen) - torch.cat(seen).mean(0)
    best = torch.linalg.svdvals(centred)[:4].square().sum()
    held = (centred @ layer.lora_A["default"].weight.T).square().sum()
    assert held > 0.9 * best
    a = dict(factors(model))  # layers with one input have one A
    assert torch.equal(*(one for name, one in a.items() if "layers.0.self_attn" in name))


def test_it_is_the_base_until_it_is_trained_and_a_plain_lora_when_it_is_saved(tmp_path: Path) -> None:
    method = Lora(r=4, init="eva")
    model = calibrated(method, "llama")
    assert torch.equal(logits(model, "llama"), logits(tiny_models.model("llama"), "llama"))
    again = calibrated(method, "llama")
    assert all(torch.equal(one, factors(again)[name]) for name, one in factors(model).items())
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-2)
    model(**inputs("llama")).logits.logsumexp(-1).sum().backward()
    optimizer.step()
    model.save_pretrained(tmp_path)
    plain = PeftModel.from_pretrained(tiny_models.model("llama"), str(tmp_path))
    assert torch.equal(logits(plain, "llama"), logits(model, "llama"))
    assert not torch.equal(logits(plain, "llama"), logits(tiny_models.model("llama"), "llama"))
    assert plain.peft_config["default"].init_lora_weights is True


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_quantised_bases_show_their_inputs_as_well(kind: Any) -> None:
    base = tiny_models.model("llama")
    quantize(base, kind)
    method = Lora(r=3, init="eva")
    model = begun(method, base.requires_grad_(False), "llama")
    before = {name: one.clone() for name, one in factors(model).items()}
    method.calibrate(model, [lambda: model(input_ids=BATCHES[0]).logits.sum()])
    assert all(not torch.equal(one, before[name]) for name, one in factors(model).items())


def test_too_few_rows_are_told() -> None:
    model = begun(Lora(r=64, init="eva"), tiny_models.model("llama"), "llama")
    with pytest.raises(
        RecipeError, match=r"first rows hold fewer than 64 inputs of .*: lower method\.r, or take"
    ):
        Lora(r=64, init="eva").calibrate(model, [lambda: model(input_ids=BATCHES[0][:1, :9]).logits.sum()])


@pytest.mark.parametrize(
    "fields", [{"ends": ("head",)}, {"target_parameters": ("mlp.experts.gate_up_proj",)}]
)
def test_it_is_for_linear_layers(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="init 'eva' is for linear layers"):
        Lora(init="eva", **fields)
