"""A run on pairs: it learns to prefer, resumes to the byte, and goes on as any adapter for chat."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from ptune.config.preference import LOSSES
from ptune.evaluation.evaluate import evaluate
from ptune.fine_tune import train
from ptune.formats.run import Run
from ptune.methods.freeze import FreezeExceptLast
from ptune.methods.full import Full
from ptune.methods.ia3 import Ia3
from ptune.methods.lora import Lora
from ptune.methods.prompt_tuning import PromptTuning
from ptune.training.callbacks import StepInfo
from ptune.training.journal.metrics_log import read

from .conftest import Make, rows


def preferred(run: Run) -> list[float]:
    """Shares of validation pairs, in order."""
    return [
        entry["validation_accuracy"] for entry in read(run.metrics_path) if "validation_accuracy" in entry
    ]


def pause_after_three(info: StepInfo) -> None:
    if info.step == 3:
        info.pause()


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_every_loss_teaches_which_answer_is_better(make: Make, loss: str, tmp_path: Path) -> None:
    smoothing = {"label_smoothing": 0.1} if loss == "robust" else {}
    epochs = 4.0 if loss == "cpo" else 2.0
    run = train(make(loss, task=smoothing, epochs=epochs), tmp_path / "run")
    assert run.record().status == "finished"
    if loss != "cpo":  # to which the longer answers, all better here, are the less likely ones for long
        assert preferred(run)[-1] == 1.0
    steps = [entry["loss"] for entry in read(run.metrics_path) if "loss" in entry]
    assert np.mean(steps[-4:]) < np.mean(steps[:4])
    if loss == "dpo":
        assert steps[0] == pytest.approx(np.log(2), abs=1e-5)  # the model is its reference still


@pytest.mark.parametrize(
    "method",
    [Full(), FreezeExceptLast(layers=1), Ia3(target_modules=("v_proj",)), PromptTuning(num_virtual_tokens=4)],
    ids=lambda method: type(method).__name__,
)
def test_the_reference_is_the_model_before_training_whatever_the_method(
    make: Make, method: object, tmp_path: Path
) -> None:
    run = train(make(method=method, max_steps=2), tmp_path / "run")
    first = next(entry["loss"] for entry in read(run.metrics_path) if "loss" in entry)
    at_start = first == pytest.approx(np.log(2), abs=1e-4)
    assert at_start or isinstance(method, PromptTuning)  # whose vectors change the model from the start


def test_a_run_that_was_interrupted_ends_in_the_same_bytes(make: Make, tmp_path: Path) -> None:
    recipe = make(method=Lora(r=4, dropout=0.1), save_every=1, max_steps=6)
    whole = train(recipe, tmp_path / "whole")
    stopped = train(recipe, tmp_path / "stopped", callbacks=[pause_after_three])
    assert stopped.record().status == "interrupted"
    train(recipe, tmp_path / "stopped", resume=True)
    names = ("adapter_model.safetensors", "ptune.json")
    for name in names:
        assert (whole.adapter_path / name).read_bytes() == (stopped.adapter_path / name).read_bytes()


def test_a_models_own_attention_gives_the_same_loss(make: Make, tmp_path: Path) -> None:
    fast, plain = (
        train(make(max_steps=2, fast=fast, micro_batch_tokens=most), tmp_path / f"{fast}-{most}")
        for fast, most in ((True, 512), (False, 16))
    )
    ours, theirs = (
        [entry["loss"] for entry in read(run.metrics_path) if "loss" in entry] for run in (fast, plain)
    )
    assert ours == pytest.approx(theirs, abs=1e-5)


def test_evaluation_counts_what_peft_and_transformers_say(make: Make, kit: Path, tmp_path: Path) -> None:
    run = train(make(), tmp_path / "run")
    found = evaluate(run)["pairs"]
    base = AutoModelForCausalLM.from_pretrained(kit / "model")
    tokenizer = AutoTokenizer.from_pretrained(kit / "model")
    tuned = PeftModel.from_pretrained(base, run.adapter_path)

    def log_p(prompt: list[dict[str, str]], answer: list[dict[str, str]]) -> float:
        before = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
        whole = tokenizer.apply_chat_template([*prompt, *answer], return_dict=False)
        end = len(whole) - (
            tokenizer.decode(whole[-1:]).strip() == ""
        )  # a new line after the answer is no target
        with torch.no_grad():
            log_p = tuned(torch.tensor([whole])).logits[0].log_softmax(-1)
        return float(sum(log_p[at - 1, whole[at]] for at in range(len(before), end)))

    test = rows(32)[24:]
    after = np.array([[log_p(row["prompt"], row[side]) for side in ("chosen", "rejected")] for row in test])
    with tuned.disable_adapter():
        before = np.array(
            [[log_p(row["prompt"], row[side]) for side in ("chosen", "rejected")] for row in test]
        )
    assert found["pairs"] == 8
    assert found["base"]["chosen"]["value"] == pytest.approx(before[:, 0].mean(), abs=1e-3)
    assert found["tuned"]["rejected"]["value"] == pytest.approx(after[:, 1].mean(), abs=1e-3)
    margins = (after - before)[:, 0] - (after - before)[:, 1]
    assert found["tuned"]["margin"]["value"] == pytest.approx(margins.mean(), abs=1e-3)
    assert found["tuned"]["preferred"]["value"] == (margins > 0).mean() == 1.0
    assert "pairs of answers" in run.report_path.read_text()
    assert "better answer gained more" in run.card_path.read_text()


def test_pairs_of_which_one_side_is_too_long_are_dropped_whole(make: Make, kit: Path, tmp_path: Path) -> None:
    long = rows(40)[39]
    long["rejected"][0]["content"] = "so " * 2000
    made = [*(json.loads(line) for line in (kit / "train.jsonl").read_text().splitlines()), long]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, made)))
    recipe = make(max_steps=1, task={"max_length": 1000, "on_overlong": "drop"})
    recipe = recipe.model_copy(
        update={"data": recipe.data.model_copy(update={"files": (tmp_path / "train.jsonl",)})}
    )
    run = train(recipe, tmp_path / "run")
    data = json.loads(run.data_path.read_text())
    assert data["train"]["overlong"] + data["validation"]["overlong"] == 1
    assert (data["train"]["examples"] + data["validation"]["examples"]) == 2 * 24
