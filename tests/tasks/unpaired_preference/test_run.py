"""A run on judged answers: it learns to tell them apart, resumes to the byte, and is measured as PEFT would."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from sklearn.metrics import roc_auc_score
from transformers import AutoModelForCausalLM, AutoTokenizer

from ptune.errors import RecipeError
from ptune.evaluation.evaluate import evaluate
from ptune.evaluation.require import parsed
from ptune.fine_tune import train
from ptune.formats.run import Run
from ptune.methods.full import Full
from ptune.methods.ia3 import Ia3
from ptune.methods.lora import Lora
from ptune.training.callbacks import StepInfo
from ptune.training.journal.metrics_log import read

from .conftest import Make, rows


def values(run: Run, name: str) -> list[float]:
    return [entry[name] for entry in read(run.metrics_path) if name in entry]


def pause_after_three(info: StepInfo) -> None:
    if info.step == 3:
        info.pause()


@pytest.mark.parametrize("loss", ["kto", "apo_zero"])
def test_a_loss_teaches_which_answers_are_desirable(make: Make, loss: str, tmp_path: Path) -> None:
    run = train(make(loss), tmp_path / "run")
    assert run.record().status == "finished"
    assert values(run, "loss")[0] == pytest.approx(0.5, abs=1e-6)  # the model is its reference still
    assert values(run, "validation_accuracy")[-1] == 1.0
    found = evaluate(run, parsed(["told_apart>=0.9"]))
    assert found["judged"]["tuned"]["told_apart"]["value"] > 0.9
    assert found["requirements"][0]["passed"]
    assert found["no_better"] == ""
    assert "6 desirable answers, 6 undesirable ones" in run.report_path.read_text()
    assert "undesirable answers that lost" in run.card_path.read_text()


@pytest.mark.parametrize("method", [Full(), Ia3(target_modules=("v_proj",))], ids=["Full", "Ia3"])
def test_the_reference_is_the_model_before_training_whatever_the_method(
    make: Make, method: object, tmp_path: Path
) -> None:
    run = train(make(method=method, max_steps=2), tmp_path / "run")
    assert values(run, "loss")[0] == pytest.approx(0.5, abs=1e-5)


def test_a_run_that_was_interrupted_ends_in_the_same_bytes(make: Make, tmp_path: Path) -> None:
    recipe = make(method=Lora(r=4, dropout=0.1), save_every=1, max_steps=6)
    whole = train(recipe, tmp_path / "whole")
    stopped = train(recipe, tmp_path / "stopped", callbacks=[pause_after_three])
    assert stopped.record().status == "interrupted"
    train(recipe, tmp_path / "stopped", resume=True)
    for name in ("adapter_model.safetensors", "ptune.json"):
        assert (whole.adapter_path / name).read_bytes() == (stopped.adapter_path / name).read_bytes()


def test_one_answer_a_pass_gives_the_same_loss(make: Make, tmp_path: Path) -> None:
    ours, theirs = (
        values(
            train(make(max_steps=3, fast=fast, micro_batch_tokens=most), tmp_path / f"{fast}-{most}"), "loss"
        )
        for fast, most in ((True, 512), (False, 16))
    )
    assert ours == pytest.approx(theirs, abs=1e-5)


def test_evaluation_counts_what_peft_and_transformers_say(make: Make, kit: Path, tmp_path: Path) -> None:
    run = train(make(), tmp_path / "run")
    found = evaluate(run)["judged"]
    base = AutoModelForCausalLM.from_pretrained(kit / "model")
    tokenizer = AutoTokenizer.from_pretrained(kit / "model")
    tuned = PeftModel.from_pretrained(base, run.adapter_path)

    def log_p(row: dict[str, list[dict[str, str]]]) -> tuple[float, int]:
        prompt, answer = row["prompt"], row["completion"]
        before = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
        whole = tokenizer.apply_chat_template([*prompt, *answer], return_dict=False)
        end = len(whole) - (
            tokenizer.decode(whole[-1:]).strip() == ""
        )  # a new line after the answer is no target
        with torch.no_grad():
            each = tuned(torch.tensor([whole])).logits[0].log_softmax(-1)
        places = range(len(before), end)
        return float(sum(each[at - 1, whole[at]] for at in places)), len(places)

    test = rows(60)[48:]
    after, lengths = map(np.array, zip(*map(log_p, test), strict=True))
    with tuned.disable_adapter():
        before = np.array([log_p(row)[0] for row in test])
    desirable, gained = np.array([row["label"] for row in test]), after - before
    assert (found["answers"], found["desirable"]) == (12, 6)
    tuned_figures, base_figures = found["tuned"], found["base"]
    assert base_figures["undesirable"]["value"] == pytest.approx(before[~desirable].mean(), abs=1e-3)
    assert tuned_figures["desirable"]["value"] == pytest.approx(after[desirable].mean(), abs=1e-3)
    margin = gained[desirable].mean() - gained[~desirable].mean()
    assert tuned_figures["margin"]["value"] == pytest.approx(margin, abs=1e-3)
    assert tuned_figures["told_apart"]["value"] == pytest.approx(roc_auc_score(desirable, gained))
    assert base_figures["likelier"]["value"] == pytest.approx(roc_auc_score(desirable, before / lengths))
    assert found["longer"] == pytest.approx(roc_auc_score(desirable, lengths))
    assert tuned_figures["gained"]["value"] == pytest.approx((gained[desirable] > 0).mean())
    assert tuned_figures["lost"]["value"] == pytest.approx((gained[~desirable] < 0).mean())
    low, high = tuned_figures["margin"]["interval"]
    assert low < margin < high


def test_smoothing_is_refused(make: Make) -> None:
    with pytest.raises((RecipeError, ValueError), match="their losses have none"):
        make(task={"label_smoothing": 0.1})
