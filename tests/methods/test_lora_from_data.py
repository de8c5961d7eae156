"""Factors that begin with the training's own rows: PEFT's, the same each time, and plain LoRA when they are saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import EvaConfig, LoraConfig, LoraGAConfig, PeftModel, get_peft_model
from peft.tuners.lora.config import CordaConfig
from peft.tuners.lora.corda import preprocess_corda
from peft.tuners.lora.eva import get_eva_state_dict
from peft.tuners.lora.loraga import preprocess_loraga
from support import tiny_models
from support.every_method import begun, inputs, logits, loss_of

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
        overlap = torch.linalg.svdvals(
            own @ directions.float().T
        )  # cosines of the angles between both subspaces
        assert overlap[:2].min() > 0.95, name
        assert overlap.mean() > 0.8, name


def peft_side(family: str, **fields: Any) -> tuple[Any, LoraConfig]:
    """A base in training by PEFT, and its config."""
    config = LoraConfig(
        r=4, lora_alpha=6, target_modules=list(TARGETS[family]), task_type="CAUSAL_LM",
        fan_in_fan_out=family == "gpt2", **fields,
    )  # fmt: skip
    return tiny_models.model(family), config


def stepped(model: Any, family: str) -> torch.Tensor:
    """Log-probabilities after three steps."""
    model.eval()
    optimizer = torch.optim.AdamW(
        [one for one in model.parameters() if one.requires_grad], lr=1e-3, weight_decay=0.0
    )
    for _ in range(3):
        optimizer.zero_grad()
        loss_of(model(**inputs(family)).logits).backward()
        optimizer.step()
    return logits(model, family).log_softmax(-1)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_corda_begins_and_learns_as_in_peft(family: str) -> None:
    rows = [ids[:1] for ids in BATCHES]
    base, config = peft_side(
        family, init_lora_weights="corda", corda_config=CordaConfig(corda_method="ipm", verbose=False)
    )
    preprocess_corda(base, config, lambda: [base(input_ids=ids) for ids in rows] and None)
    theirs = get_peft_model(base, config)
    method = Lora(r=4, alpha=6, init="corda", target_modules=TARGETS[family])
    ours = begun(method, tiny_models.model(family), family)
    method.calibrate(ours, [lambda ids=ids: ours(input_ids=ids).logits.sum() for ids in rows])  # type: ignore[misc]
    plain = logits(tiny_models.model(family), family)
    assert (logits(ours, family) - plain).abs().max() < 1e-3
    for name, own in factors(ours).items():
        found = theirs.get_parameter(name)
        assert own.shape[0] == 2 * len(found)
        assert (own[:4].abs() - found.abs()).abs().max() < 1e-3 * found.abs().max(), name
    first, second = stepped(theirs, family), stepped(ours, family)
    moved = (first - plain.log_softmax(-1)).abs().max()
    assert moved > 0.05
    assert (first - second).abs().max() < 5e-3 * moved


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_lora_ga_begins_as_in_peft(family: str) -> None:
    base, config = peft_side(family, init_lora_weights="lora_ga", lora_ga_config=LoraGAConfig())
    ids = BATCHES[0]

    def loss(model: Any) -> torch.Tensor:
        return loss_of(model(input_ids=ids).logits) / ids.numel()

    preprocess_loraga(base, config, lambda: loss(base).backward())
    theirs = get_peft_model(base, config)
    method = Lora(r=4, alpha=6, init="lora_ga", target_modules=TARGETS[family])
    ours = begun(method, tiny_models.model(family), family)
    trained = {name for name, one in ours.named_parameters() if one.requires_grad}
    method.calibrate(ours, [lambda: loss(ours)])
    assert {name for name, one in ours.named_parameters() if one.requires_grad} == trained
    assert all(one.grad is None for one in ours.parameters())
    assert (logits(ours, family) - logits(tiny_models.model(family), family)).abs().max() < 1e-3
    for name, one in factors(ours).items():
        b = name.replace("lora_A", "lora_B")
        outputs = ours.get_parameter(b).shape[0]
        pairs = [
            (one[:4], theirs.get_parameter(name)),
            (ours.get_parameter(b)[:, :4].T, theirs.get_parameter(b).T),
        ]
        if family == "gpt2":  # peft scales by the inputs of a Conv1D there
            scale = (outputs / one.shape[1]) ** 0.25
            pairs[1] = (pairs[1][0] / scale, pairs[1][1])
        for own, found in pairs:  # singular vectors, each up to its sign
            assert torch.nn.functional.cosine_similarity(own, found).abs().min() > 0.98, name
            assert (own.norm(dim=1) / found.norm(dim=1) - 1).abs().max() < 0.02, name


@pytest.mark.parametrize("init", ["corda", "lora_ga"])
@pytest.mark.parametrize("kind", ["int8", "nf4", None])
def test_what_data_began_is_read_by_plain_peft_on_the_base_of_everybody(
    init: Any, kind: Any, tmp_path: Path
) -> None:
    def made() -> Any:
        base = tiny_models.model("llama")
        if kind is not None:
            quantize(base, kind)
        return base.requires_grad_(False)

    method = Lora(r=4, init=init)
    model = begun(method, made(), "llama")
    method.calibrate(model, [lambda: loss_of(model(input_ids=BATCHES[0]).logits) / 80])
    before = logits(model, "llama")
    assert (before - logits(made(), "llama")).abs().max() < 1e-3
    stepped(model, "llama")
    model.save_pretrained(tmp_path)
    plain = PeftModel.from_pretrained(made(), str(tmp_path))
    assert torch.equal(logits(plain, "llama"), logits(model, "llama"))
    assert (logits(plain, "llama") - before).abs().max() > 1e-2


def test_covariances_that_do_not_fit_together_are_taken_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    from ptune.methods import lora_from_data

    found = []
    for most in (2**28, 5000):  # numbers; a layer of 64 inputs has 4096
        monkeypatch.setattr(lora_from_data, "_AT_ONCE", most)
        found.append(factors(calibrated(Lora(r=4, init="corda"), "llama")))
    assert all(torch.equal(one, found[1][name]) for name, one in found[0].items())


def test_gradients_that_do_not_fit_together_are_taken_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    from ptune.methods import lora_from_data

    found = []
    for most in (2**28, 5000):
        monkeypatch.setattr(lora_from_data, "_AT_ONCE", most)
        torch.manual_seed(0)
        found.append(factors(calibrated(Lora(r=4, init="lora_ga"), "llama")))
    for name, one in found[0].items():  # directions are alike up to their signs
        assert (one.abs() - found[1][name].abs()).abs().max() < 1e-2 * one.abs().max(), name


def test_a_pass_may_reach_none_of_the_layers_whose_gradients_are_held(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ptune.methods import lora_from_data

    monkeypatch.setattr(lora_from_data, "_AT_ONCE", 1)
    model = begun(Lora(r=4, init="lora_ga"), tiny_models.model("llama"), "llama")
    before = {name: one.clone() for name, one in factors(model).items()}
    inner = model.base_model.model.model

    def run() -> torch.Tensor:
        return inner.layers[0].mlp(inner.embed_tokens(BATCHES[0])).square().mean()

    Lora(r=4, init="lora_ga").calibrate(model, [run, run])
    assert {name for name, one in factors(model).items() if not torch.equal(one, before[name])} == {
        name for name in before if "layers.0.mlp" in name
    }


def test_a_gradient_needs_layers_of_twice_the_rank() -> None:
    with pytest.raises(
        RecipeError, match="'lora_ga': rank 20 needs layers of 40 inputs and outputs at least"
    ):
        calibrated(Lora(r=20, init="lora_ga"), "llama")


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
