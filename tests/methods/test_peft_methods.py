"""Every method of peft, on families of every kind: it trains, and plain peft reads what was saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from support import packed_checkpoints, tiny_models
from support.every_method import ALL, FAMILIES, head_of, inputs, logits, trained
from torch import nn

from ptune.backbone.float32 import in_float32
from ptune.backbone.load import load
from ptune.backbone.quantize import Quantization, quantize
from ptune.config.recipe import Backbone
from ptune.errors import RecipeError
from ptune.export.merge import with_plain_weights
from ptune.methods.adalora import AdaLora
from ptune.methods.bitfit import BitFit
from ptune.methods.boft import Boft
from ptune.methods.c3a import C3a
from ptune.methods.ia3 import Ia3
from ptune.methods.ln_tuning import LnTuning
from ptune.methods.loha import LoHa
from ptune.methods.lora import Lora
from ptune.methods.prompt_tuning import PromptTuning
from ptune.methods.trainable_tokens import TrainableTokens
from ptune.methods.vera import Vera

LAYERS = sorted(
    name
    for name, method in ALL.items()
    if not method.virtual_tokens and name not in ("TrainableTokens", "Lora patterns")
)


CASES = [
    *[("llama", name) for name in sorted(ALL)],
    *[("bert", name) for name in LAYERS],
    *[("vit", name) for name in LAYERS if name != "Ia3"],
    *[("gpt2", name) for name in sorted(ALL) if ALL[name].conv1d and name != "Lora patterns"],
    *[("resnet", name) for name in LAYERS if ALL[name].adapts_convolutions and name != "Ia3"],
    *[("t5", name) for name in ("AdaLora", "Ia3", "LnTuning", "Oft", "Vera")],
]


@pytest.mark.parametrize(("family", "name"), CASES)
def test_it_trains_and_plain_peft_reads_it(family: str, name: str, tmp_path: Path) -> None:
    method, make = ALL[name], FAMILIES[family]
    weights = {key: one.clone() for key, one in make().state_dict().items()}
    model = make()
    adapted = trained(method, model, family)
    after = logits(adapted, family)
    assert torch.isfinite(after).all()
    with adapted.disable_adapter():
        base = logits(adapted, family)
    assert not torch.equal(after[..., -base.shape[-2] :, :], base)
    adapted.save_pretrained(tmp_path, save_embedding_layers=False)
    plain = PeftModel.from_pretrained(make(), str(tmp_path))
    assert torch.equal(logits(plain, family), after)
    names = dict(plain.get_base_model().state_dict())
    kept = [key for key in weights if key in names and not key.startswith(head_of(family) or "-")]
    assert all(
        torch.equal(names[key], weights[key]) for key in kept
    )  # the base is the one that everybody has


@pytest.mark.parametrize("name", sorted(name for name in ALL if not ALL[name].copies))
def test_the_adapter_of_a_16_bit_base_is_float32_and_reads_back(name: str, tmp_path: Path) -> None:
    adapted = trained(ALL[name], tiny_models.model("llama").bfloat16(), "llama")
    assert {one.dtype for one in adapted.parameters() if one.requires_grad} == {torch.float32}
    adapted.save_pretrained(tmp_path, save_embedding_layers=False)
    plain = PeftModel.from_pretrained(tiny_models.model("llama").bfloat16(), str(tmp_path))
    assert torch.equal(logits(plain, "llama"), logits(adapted, "llama"))


@pytest.mark.parametrize("kind", ["int8", "nf4"])
@pytest.mark.parametrize("name", sorted(ALL))
def test_it_stands_beside_quantised_weights_or_says_that_it_cannot(
    name: str, kind: Quantization, tmp_path: Path
) -> None:
    method = ALL[name]
    if kind not in method.quantized:
        from ptune.config.recipe import Recipe

        said = (
            f"backbone.quantize '{kind}': peft's layers of method {type(method).__name__} .* use method Lora"
        )
        with pytest.raises(ValueError, match=said):
            Recipe.model_validate({"method": method, "backbone": {"quantize": kind}})
        return

    def made() -> transformers.PreTrainedModel:
        model = tiny_models.model("llama")
        quantize(model, kind)
        return model.requires_grad_(False)

    adapted = trained(method, made(), "llama")
    adapted.save_pretrained(tmp_path, save_embedding_layers=False)
    dequantised = made()
    in_float32(dequantised)
    with_plain_weights(dequantised)
    plain = PeftModel.from_pretrained(dequantised, str(tmp_path))
    assert (logits(plain, "llama") - logits(adapted, "llama")).abs().max() < 1e-4


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize(  # peft's own olora does not turn the weights of GPT-2's Conv1D
    ("family", "init"), [("gpt2", "pissa"), ("llama", "olora"), ("llama", "pissa")]
)
def test_what_begins_as_a_part_of_the_weights_learns_as_in_peft(family: str, init: Any, rslora: bool) -> None:
    """peft takes that part away from the base; here the base keeps it. The same function, before and after steps."""
    targets = {"llama": ["q_proj", "down_proj"], "gpt2": ["c_attn"]}[family]
    theirs = get_peft_model(
        tiny_models.model(family),
        LoraConfig(
            r=4, lora_alpha=6, init_lora_weights=init, target_modules=targets, use_rslora=rslora,
            task_type="CAUSAL_LM", fan_in_fan_out=family == "gpt2",
        ),
    )  # fmt: skip
    ours = Lora(r=4, alpha=6, init=init, target_modules=tuple(targets), rslora=rslora).apply(
        tiny_models.model(family)
    )
    sides: tuple[nn.Module, nn.Module] = (theirs, ours)
    for model in sides:
        model.eval()
        parameters = [one for one in model.parameters() if one.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0)
        for _ in range(3):
            optimizer.zero_grad()
            out = model(**inputs(family)).logits
            (out.logsumexp(-1).sum() - out[..., 1].sum()).backward()
            optimizer.step()
    first, second = (logits(model, family).log_softmax(-1) for model in sides)
    moved = (first - logits(tiny_models.model(family), family).log_softmax(-1)).abs().max()
    assert moved > 0.1
    assert (first - second).abs().max() < 1e-3 * moved


def test_adalora_shares_out_ranks_as_pefts_own_loop_does() -> None:
    method = AdaLora(init_r=4, target_r=2, tinit=1, tfinal=2, delta_t=1, orth_reg_weight=0.3)
    ids, steps = inputs("llama")["input_ids"], 8
    sides = []
    for own in (True, False):
        torch.manual_seed(0)
        model: Any = method.apply(tiny_models.model("llama"))
        method.begin(model, steps)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        for step in range(1, steps + 1):
            if own:  # the loss of a task, which is computed outside the model
                out = model(input_ids=ids).logits[:, :-1].flatten(0, 1)
                loss = nn.functional.cross_entropy(out, ids[:, 1:].flatten()) + method.penalty(model)
            else:
                loss = model(input_ids=ids, labels=ids).loss
            loss.backward()
            optimizer.step()
            if own:
                method.after_update(model, step, steps)
            else:
                model.base_model.update_and_allocate(step)
            optimizer.zero_grad()
        sides.append({name: one for name, one in model.named_parameters() if ".lora_" in name})
    for name, ours in sides[0].items():
        assert (ours - sides[1][name]).abs().max() < 2e-5, name
    values = torch.cat([one.flatten() for name, one in sides[0].items() if ".lora_E." in name])
    assert int((values != 0).sum()) == 2 * 14  # two for each layer, in the mean


def test_trained_layers_are_those_that_were_chosen() -> None:
    model = Vera(r=4, target_modules=("q_proj", "v_proj"), layers_to_transform=(1,)).apply(
        tiny_models.model("llama")
    )
    adapted = {n.partition(".vera_")[0] for n, p in model.named_parameters() if ".vera_lambda" in n}
    prefix = "base_model.model.model.layers.1.self_attn"
    assert adapted == {f"{prefix}.q_proj", f"{prefix}.v_proj"}
    some = Lora(r=2, exclude_modules=("mlp.up_proj", "o_proj")).apply(tiny_models.model("llama"))
    ends = {
        n.partition(".lora_")[0].rpartition(".")[2] for n, p in some.named_parameters() if p.requires_grad
    }
    assert ends == {"q_proj", "k_proj", "v_proj", "gate_proj", "down_proj"}


def test_layers_of_an_image_model_are_scaled_at_their_inputs_where_it_is_asked_for() -> None:
    model = Ia3(target_modules=("k_proj", "fc2"), feedforward_modules=("fc2",)).apply(FAMILIES["vit"]())
    inputs_scaled = {name: one.is_feedforward for name, one in model.named_modules() if hasattr(one, "ia3_l")}
    assert len(inputs_scaled) == 4
    assert all(name.endswith("fc2") == inner for name, inner in inputs_scaled.items())


def test_lora_fa_trains_one_side() -> None:
    names = [
        n
        for n, p in Lora(r=2, freeze_a=True).apply(tiny_models.model("llama")).named_parameters()
        if p.requires_grad
    ]
    assert names
    assert all(".lora_B." in name for name in names)


def test_experts_are_adapted(tmp_path: Path) -> None:
    method = Lora(r=2, target_modules=("q_proj",), target_parameters=("mlp.experts.gate_up_proj",))
    adapted = trained(method, tiny_models.model("qwen3_moe"), "llama")
    assert any(
        ".experts." in name and ".lora_B." in name
        for name, one in adapted.named_parameters()
        if one.requires_grad
    )
    adapted.save_pretrained(tmp_path)
    plain = PeftModel.from_pretrained(tiny_models.model("qwen3_moe"), str(tmp_path))
    assert torch.equal(logits(plain, "llama"), logits(adapted, "llama"))


@pytest.mark.parametrize("family", tiny_models.MIXTURES)
def test_all_linear_layers_are_no_experts(family: str) -> None:
    """peft would take the experts of some mixtures, too, as they were linear layers once."""
    adapted = Lora(r=2).apply(tiny_models.model(family))
    names = {name for name, one in adapted.named_parameters() if one.requires_grad}
    assert any(".q_proj." in name for name in names)
    assert not any(".experts." in name or ".gate." in name or ".router." in name for name in names)
    assert not adapted.peft_config["default"].target_parameters


def test_a_router_that_is_a_linear_layer_is_refused() -> None:
    with pytest.raises(RecipeError, match="'router' of PhimoeForCausalLM chooses experts"):
        Lora(target_modules=("q_proj", "router")).apply(tiny_models.model("phimoe"))


def test_a_name_that_peft_takes_for_experts_is_refused() -> None:
    method = Lora(target_modules=("q_proj", "gate"))
    with pytest.raises(RecipeError, match="peft takes 'gate' for the experts of MixtralForCausalLM"):
        method.apply(tiny_models.model("mixtral"))


@pytest.mark.parametrize(
    ("family", "method", "said"),
    [
        ("llama", BitFit(), "LlamaForCausalLM has no biases: use Ia3 or LnTuning"),
        ("gpt2", LoHa(), "method LoHa cannot adapt GPT2LMHeadModel, whose layers are Conv1D: use Lora"),
        (
            "vit",
            Ia3(),
            "no choice of layers for Ia3 in a model of type 'vit': name them in method.target_modules",
        ),
        (
            "resnet",
            Vera(),
            "ResNetModel has no linear layers in its body, and this method adapts no convolutions",
        ),
        ("resnet", LnTuning(), "keep statistics of batches"),
        ("resnet", Lora(init="pissa"), "has no linear layers"),
        ("llama", Boft(boft_block_size=7), "peft cannot adapt LlamaForCausalLM: .*divisible by"),
        ("llama", C3a(), "peft cannot adapt LlamaForCausalLM: .*block size"),
        ("llama", Lora(init="pissa", r=99), "rank 99 is more than the 64 that the weights of"),
        ("llama", Lora(exclude_modules=("q_porj",)), "exclude_modules: .* 'q_porj'; did you mean 'q_proj'"),
        (
            "llama",
            Lora(layers_to_transform=(0, 7)),
            "there is no block 7 with such layers; the blocks are 0, 1",
        ),
        ("llama", TrainableTokens(), "name tokens in method.tokens or backbone.new_tokens"),
        ("llama", TrainableTokens(tokens=(99999,)), "there is no token 99999; the vocabulary ends at"),
        ("bert", PromptTuning(), "PromptTuning is for chat and translation by causal models"),
        ("llama", PromptTuning(layers_to_transform=(1,)), "changes no layers"),
    ],
)
def test_what_cannot_be_is_told_in_a_sentence(family: str, method: Any, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        method.apply(FAMILIES[family](), (), head_of(family))


@pytest.mark.parametrize(
    ("kind", "fields", "said"),
    [
        (AdaLora, {"init_r": 4, "target_r": 4}, "target_r is 4 and init_r is 4: it must be less"),
        (Lora, {"init": "pissa", "dora": True}, "init 'pissa' does not go with dora"),
        (Lora, {"init": "olora", "dropout": 0.1}, "init 'olora' does not go with dropout"),
        (Lora, {"target_parameters": ("x",), "dropout": 0.1}, "target_parameters takes no dropout"),
        (Lora, {"rank_pattern": {"q_proj": 0}}, "a rank is 1 or more"),
    ],
)
def test_fields_that_do_not_go_together_are_refused(kind: Any, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        kind(**fields)


def test_ranks_cannot_be_shared_out_in_no_step() -> None:
    method = AdaLora(tinit=5, tfinal=5)
    model: Any = method.apply(tiny_models.model("llama"))
    with pytest.raises(RecipeError, match=r"tinit 5 and method\.tfinal 5 leave none of the 10 steps"):
        method.begin(model, 10)


@pytest.mark.parametrize("name", sorted(name for name in ALL if ALL[name].quantized))
def test_it_stands_beside_a_ready_made_checkpoint(name: str, tmp_path: Path) -> None:
    folder, values = packed_checkpoints.build(tmp_path / "model", packed_checkpoints.Gptq())
    adapted = trained(ALL[name], load(Backbone(model=str(folder), dtype="float32")).model, "llama")
    adapted.save_pretrained(tmp_path, save_embedding_layers=False)
    base = tiny_models.model("llama")
    base.load_state_dict(values, strict=False)
    plain = PeftModel.from_pretrained(base, str(tmp_path))
    assert (logits(plain, "llama") - logits(adapted, "llama")).abs().max() < 1e-4
