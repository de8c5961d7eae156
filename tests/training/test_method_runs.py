"""A run by each kind of method, from the recipe's file to what is merged: resumed to the byte, evaluated, or refused in words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from support import tiny_models
from transformers import AutoModelForCausalLM

from ptune import publish
from ptune.backbone.load import load
from ptune.codecs.chat import Example
from ptune.config.recipe import Recipe
from ptune.errors import AdapterError, RecipeError, UsageError
from ptune.evaluation.evaluate import evaluate
from ptune.export.merge import merged_of_any
from ptune.fine_tune import train
from ptune.formats.run import Run
from ptune.methods.adalora import AdaLora
from ptune.methods.hira import Hira
from ptune.methods.ln_tuning import LnTuning
from ptune.methods.loha import LoHa
from ptune.methods.lora import Lora
from ptune.methods.oft import Oft
from ptune.methods.p_tuning import PTuning
from ptune.methods.prefix_tuning import PrefixTuning
from ptune.methods.prompt_tuning import PromptTuning
from ptune.methods.shira import Shira
from ptune.methods.trainable_tokens import TrainableTokens
from ptune.methods.vblora import VbLora
from ptune.planning.prediction import predict
from ptune.publish.decoder_run import ends_of
from ptune.training.loss.next_token import NextTokenObjective
from ptune.training.rows.virtual_tokens import virtual_tokens

from .conftest import Make, fingerprint, refused

X = torch.tensor([[3, 60, 17, 101, 42, 301, 9]])


def from_file(recipe: Recipe, place: Path) -> Recipe:
    """The recipe, written as YAML and read again."""
    recipe.save(place / "recipe.yaml")
    return Recipe.load(place / "recipe.yaml")


def live(run: Run) -> PeftModel:
    backbone = Recipe.load(run.recipe_path).backbone
    return PeftModel.from_pretrained(load(backbone).model, str(run.adapter_path)).eval()


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(X).logits
    return found


@pytest.mark.parametrize(
    "method",
    [
        AdaLora(init_r=4, target_r=2, tinit=1, tfinal=2, delta_t=1),
        Lora(r=4, init="pissa"),
        Lora(r=4, init="eva"),
        Lora(r=4, init="lora_ga"),
        Lora(r=4, init="corda"),
        Lora(r=4, freeze_a=True),
        Lora(r=4, merge_into="int4"),
        PrefixTuning(num_virtual_tokens=3),
    ],
    ids=lambda method: type(method).__name__,
)
def test_what_was_interrupted_ends_in_the_same_bytes(
    method: Any, make: Make, tmp_path: Path, interrupt_at: None
) -> None:
    recipe = from_file(make(method=method, max_steps=8, validate_every=2, save_every=1), tmp_path)
    broken = train(recipe, tmp_path / "broken")
    assert (broken.record().status, broken.record().steps) == ("interrupted", 3)
    resumed = train(recipe, tmp_path / "broken", resume=True)
    whole = train(recipe, tmp_path / "whole")
    assert fingerprint(resumed.adapter_path) == fingerprint(whole.adapter_path)
    assert whole.record().hops[0].max_abs_logprob == 0.0
    last = [load_file(run.checkpoints_path / "step-8" / "weights.safetensors") for run in (resumed, whole)]
    assert last[0].keys() == last[1].keys()
    assert all(torch.equal(last[0][name], one) for name, one in last[1].items())


@pytest.mark.parametrize("quantize", ["int8", "nf4"])
def test_what_begins_as_what_was_lost_is_resumed_and_refused_where_nothing_was(
    quantize: str, make: Make, tmp_path: Path, interrupt_at: None
) -> None:
    method = Lora(r=4, init="loftq")
    recipe = make(method=method, backbone={"quantize": quantize}, max_steps=5, save_every=1)
    broken = train(recipe, tmp_path / "broken")
    assert broken.record().status == "interrupted"
    whole = train(recipe, tmp_path / "whole")
    resumed = train(recipe, tmp_path / "broken", resume=True)
    assert fingerprint(resumed.adapter_path) == fingerprint(whole.adapter_path)
    assert whole.record().hops[0].max_abs_logprob == 0.0
    first = next(row["loss"] for row in whole.metrics() if "lr" in row)
    plain = train(make(method=Lora(r=4), backbone={"quantize": quantize}, max_steps=1), tmp_path / "plain")
    assert first != next(row["loss"] for row in plain.metrics() if "lr" in row)
    said = refused(RecipeError, make(method=method), tmp_path / "none")
    assert "method.init 'loftq' begins with what quantising has lost: set backbone.quantize" in said
    ledgers = [
        predict(make(method=Lora(r=4, init=init), backbone={"quantize": quantize}), [40] * 8, device="cpu")
        for init in ("default", "loftq")
    ]
    assert ledgers[1].loading > ledgers[0].loading
    assert ledgers[1].step_bytes == ledgers[0].step_bytes


@pytest.mark.parametrize(
    ("method", "quantize"),
    [(Hira(r=4), "nf4"), (Hira(r=4), "int8"), (Oft(oft_block_size=8), "none")],
    ids=["hira nf4", "hira int8", "oft"],
)
def test_what_is_no_low_rank_update_is_merged(
    method: Any, quantize: str, make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = from_file(make(method=method, backbone={"quantize": quantize}, max_steps=3), tmp_path)
    run = train(recipe, tmp_path / "run")
    assert "are served merged: ptune export RUN --merge" in capsys.readouterr().err
    evaluation = evaluate(run)
    assert evaluation["after"]["loss"] != evaluation["before"]["loss"]
    with pytest.raises(UsageError, match="whose adapters are served merged: add --merge, or ptune merge"):
        publish.export_run(run, tmp_path / "bundle", name="x", threads=1)
    publish.merge_run(run, tmp_path / "merged")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    rounded = 1e-3 if quantize == "none" else 0.3  # bitsandbytes' kernels round
    assert (logits(plain) - logits(live(run))).abs().max() < rounded
    publish.merge_run(run, tmp_path / "half", "bfloat16", limit=10.0)
    half = AutoModelForCausalLM.from_pretrained(tmp_path / "half", dtype=torch.float32)
    for name, weight in plain.state_dict().items():
        assert torch.equal(half.state_dict()[name], weight.bfloat16().float())


def test_dora_on_a_base_in_nf4_is_merged_or_served_beside_it(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = make(method=Lora(r=4, dora=True), backbone={"quantize": "nf4"}, max_steps=3)
    run = train(recipe, tmp_path / "run")
    assert "are served merged" not in capsys.readouterr().err
    assert publish.export_run(run, tmp_path / "bundle", name="x", threads=1, anyway=True).passed
    publish.merge_run(run, tmp_path / "merged")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    assert (logits(plain) - logits(live(run))).abs().max() < 0.3  # bitsandbytes' kernels round


@pytest.mark.parametrize("method", [PTuning(num_virtual_tokens=3), PromptTuning(num_virtual_tokens=3)])
def test_virtual_tokens_are_trained_and_evaluated_and_not_merged(
    method: Any, make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(from_file(make(method=method, max_steps=12, lr=3e-2), tmp_path), tmp_path / "run")
    assert "are for PEFT" not in capsys.readouterr().err
    evaluation = evaluate(run)
    assert evaluation["after"]["loss"] != evaluation["before"]["loss"]
    for publishing in (
        lambda: publish.merge_run(run, tmp_path / "merged"),
        lambda: publish.export_run(run, tmp_path / "bundle", name="x", threads=1, merge=True, anyway=True),
    ):
        with pytest.raises(
            UsageError, match=r"whose virtual tokens cannot be merged: ptune export .* serves them beside"
        ):
            publishing()


def test_an_adapter_with_an_invocation_is_trained_evaluated_and_served_beside_its_base(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = tiny_models.tokenizer()("<|im_start|>assistant\n")["input_ids"]
    method = Lora(r=4, invocation=tuple(call))
    run = train(from_file(make(method=method, max_steps=6, lr=3e-2), tmp_path), tmp_path / "run")
    assert "acts from its invocation on: one example per forward pass" in capsys.readouterr().err
    assert run.record().hops[0].max_abs_logprob == 0.0
    evaluation = evaluate(run)
    assert evaluation["after"]["loss"] < evaluation["before"]["loss"]
    ids = torch.tensor([[5, 60, 7, *call, 9, 101]])
    model = live(run)
    with torch.no_grad():
        moved = (model(ids).logits - model.get_base_model()(ids).logits).abs().amax(-1)[0]
    assert moved[:3].max() == 0  # peft's own layers, called without an offset, are the base
    assert moved[3:].min() > 1e-3
    assert publish.export_run(run, tmp_path / "bundle", name="x", threads=1, anyway=True).passed
    with pytest.raises(UsageError, match=r"before which its adapter is off, so it cannot be merged"):
        publish.merge_run(run, tmp_path / "merged")
    with pytest.raises(RecipeError, match=r"gradient_checkpointing: .* where method.invocation is"):
        train(make(method=method, gradient_checkpointing=True), tmp_path / "checkpointed")


def test_the_loss_with_an_invocation_is_pefts() -> None:
    ids, flags = tuple(X[0].tolist()), (False, False, True, True, False, True, True)
    torch.manual_seed(0)
    model: PeftModel = Lora(r=4, invocation=(17, 101)).apply(tiny_models.model("llama"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    objective = NextTokenObjective(packed=False, max_tokens=64, device=torch.device("cpu"))
    (batch,) = objective.batches([Example(ids, flags)])
    score = objective.score(model.train(), batch)
    labels = torch.where(torch.tensor([flags]), X, -100)
    expected = model(input_ids=X, labels=labels).loss
    assert float(score.loss) / 4 == pytest.approx(float(expected), rel=1e-5)
    with model.disable_adapter():
        plain = model(input_ids=X, labels=labels).loss
    assert float(expected) != pytest.approx(float(plain), rel=1e-3)


@pytest.mark.parametrize(
    "method", [PTuning(), PrefixTuning(), PromptTuning()], ids=lambda method: type(method).__name__
)
def test_the_loss_after_virtual_tokens_is_pefts(method: Any) -> None:
    ids, flags = tuple(X[0].tolist()), (False, False, True, True, False, True, True)
    torch.manual_seed(0)
    model: PeftModel = method.apply(tiny_models.model("llama"))
    model.eval()
    objective = NextTokenObjective(packed=False, max_tokens=64, device=torch.device("cpu"))
    (batch,) = objective.batches([Example(ids, flags)])
    score = objective.score(model, batch)
    labels = torch.where(torch.tensor([flags]), X, -100)
    assert float(score.loss) / 4 == pytest.approx(float(model(input_ids=X, labels=labels).loss), rel=1e-5)
    with model.disable_adapter():
        assert virtual_tokens(model) == 0
        plain = tiny_models.model("llama")(input_ids=X, labels=labels).loss
        assert float(objective.score(model, batch).loss) / 4 == pytest.approx(float(plain), rel=1e-5)


@pytest.mark.parametrize("family", ["llama", "llama_tied"])
def test_rows_of_tokens_are_merged_where_they_are(family: str, make: Make, tmp_path: Path) -> None:
    tiny_models.build(tmp_path / "model", family)
    method = TrainableTokens(tokens=(3, 60, 101))
    run = train(
        make(method=method, backbone={"model": str(tmp_path / "model")}, max_steps=3, lr=5e-2),
        tmp_path / "run",
    )
    assert run.record().hops[0].max_abs_logprob == 0.0
    publish.merge_run(run, tmp_path / "merged")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    assert (logits(plain) - logits(live(run))).abs().max() < 1e-4
    assert (logits(plain) - logits(tiny_models.model(family))).abs().max() > 1e-2


def test_biases_of_an_adapter_are_served_by_sockets_of_their_own(make: Make, tmp_path: Path) -> None:
    run = train(make(method=Lora(r=4, lora_bias=True), max_steps=2), tmp_path / "run")
    model = load(Recipe.load(run.recipe_path).backbone).model
    assert ends_of(run.adapter_path, model) == ("biases",)
    with pytest.raises(AdapterError, match=r"peft cannot merge an adapter of peft_type LORA: .*no bias"):
        merged_of_any(live(run))


PLANNED: dict[str, tuple[Any, str]] = {
    "AdaLora": (AdaLora(), "none"),
    "dora nf4": (Lora(r=4, dora=True), "nf4"),
    "LoHa": (LoHa(), "none"),
    "PrefixTuning": (PrefixTuning(), "none"),
    "VbLora": (VbLora(vector_length=16), "none"),
}


@pytest.mark.parametrize("name", sorted(PLANNED))
def test_the_plan_follows_the_step(name: str, make: Make) -> None:
    method, quantize = PLANNED[name]
    recipe = make(method=method, backbone={"quantize": quantize})
    torch.manual_seed(0)
    adapted = method.apply(tiny_models.model("llama"))
    trained = sum(one.nbytes for one in adapted.parameters() if one.requires_grad)
    ledger = predict(recipe, [40] * 8, device="cpu")
    assert ledger.adapter == trained
    assert ledger.optimiser >= 2 * trained
    assert ledger.activations > 0


def test_what_cannot_be_planned_is_said(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = make(method=Shira(r=2), max_steps=1)
    with pytest.raises(Exception, match="method Shira: its memory cannot be predicted"):
        predict(recipe, [40] * 8, device="cpu")
    train(recipe, tmp_path / "run")
    assert "plan: skipped; the memory of method Shira cannot be predicted" in capsys.readouterr().err


def test_copies_of_weights_are_trained_in_float32(make: Make, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="'bfloat16' cannot be trained by LnTuning: use float32"):
        train(make(method=LnTuning(), backbone={"dtype": "bfloat16"}), tmp_path / "run")
    run = train(make(method=LnTuning(), backbone={"dtype": "auto"}, max_steps=1), tmp_path / "run")
    assert run.record().base.dtype == "float32"


def test_weight_decay_and_a_mirrored_start_do_not_go_together(make: Make) -> None:
    with pytest.raises(
        ValueError, match="weight_decay would shrink the part of the weights that init 'olora'"
    ):
        make(method=Lora(init="olora"), weight_decay=0.1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": LoHa(), "backbone": {"new_tokens": ("<x>",)}}, "LoHa trains no rows of the embedding"),
        ({"method": Oft(), "train": {"lora_plus_ratio": 4.0}}, "lora_plus_ratio needs method Lora"),
        ({"method": Oft(), "backbone": {"stream": True}}, "backbone.stream is for .* method Lora"),
        (
            {"method": PromptTuning(), "task": {"kind": "Embedding"}},
            "for chat and translation by causal models",
        ),
    ],
)
def test_what_a_method_cannot_do_is_refused_with_the_recipe(
    changes: dict[str, Any], said: str, recipe_with: Callable[[dict[str, Any]], Recipe]
) -> None:
    with pytest.raises(ValueError, match=said):
        recipe_with(changes)


@pytest.fixture
def recipe_with() -> Callable[[dict[str, Any]], Recipe]:
    def made(changes: dict[str, Any]) -> Recipe:
        from ptune.config.retrieval import Embedding

        if "task" in changes:
            changes = {**changes, "task": Embedding()}
        return Recipe.model_validate(changes)

    return made
