"""A reward model learns which answers are better, resumes to the byte, and is exported, proved and served as a reranker."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from ptune import publish
from ptune.cli import main
from ptune.errors import DataError, RecipeError
from ptune.evaluation.options import EvaluationOptions
from ptune.evaluation.require import parsed
from ptune.evaluation.retrieval.evaluate_bundle import evaluate_bundle
from ptune.evaluation.reward_model.evaluate import evaluate_run
from ptune.fine_tune import train
from ptune.formats.run import Run
from ptune.methods.full import Full
from ptune.methods.lora import Lora
from ptune.tasks.encoder.infer import load
from ptune.tasks.retrieval.infer import rerank
from ptune.training.callbacks import StepInfo
from ptune.training.journal.metrics_log import read

from .conftest import Make, rows


@pytest.fixture(scope="session")
def run(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(make(), tmp_path_factory.mktemp("run") / "judge")


@pytest.fixture(scope="session")
def bundle(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "judge"
    publish.export_run(run, folder, name="judge", threads=1)
    return folder


def values(run: Run, name: str) -> list[float]:
    return [entry[name] for entry in read(run.metrics_path) if name in entry]


def pause_after_three(info: StepInfo) -> None:
    if info.step == 3:
        info.pause()


def test_it_learns_which_answer_is_better(run: Run) -> None:
    losses = values(run, "loss")
    assert np.mean(losses[-3:]) < 0.7 * np.mean(losses[:3])
    assert values(run, "validation_accuracy")[-1] == 1.0


@pytest.mark.parametrize(("model", "method"), [("llama", None), ("bert", Full())], ids=["llama", "Full"])
def test_a_causal_body_and_all_weights_are_trained_too(
    make: Make, model: str, method: Any, tmp_path: Path
) -> None:
    found = train(make(model, method, epochs=3.0, lr=3e-3), tmp_path / "run")
    assert found.record().hops[0].passed
    losses = values(found, "loss")
    assert np.mean(losses[-3:]) < np.mean(losses[:3])


def test_a_run_that_was_interrupted_ends_in_the_same_bytes(make: Make, tmp_path: Path) -> None:
    recipe = make(method=Lora(r=4, dropout=0.1), save_every=1, max_steps=6)
    whole = train(recipe, tmp_path / "whole")
    stopped = train(recipe, tmp_path / "stopped", callbacks=[pause_after_three])
    assert stopped.record().status == "interrupted"
    train(recipe, tmp_path / "stopped", resume=True)
    for name in ("adapter_model.safetensors", "ptune.json"):
        assert (whole.adapter_path / name).read_bytes() == (stopped.adapter_path / name).read_bytes()


def test_small_passes_give_the_same_losses(make: Make, tmp_path: Path) -> None:
    large, small = (
        values(train(make(max_steps=3, dropout=0.0, micro_batch_tokens=most), tmp_path / str(most)), "loss")
        for most in (1024, 32)
    )
    assert large == pytest.approx(small, abs=1e-5)


def test_margins_and_centring_are_in_the_loss(make: Make, kit: Path, tmp_path: Path) -> None:
    def first(**changes: Any) -> float:
        recipe = make(task=changes, max_steps=1, dropout=0.0)
        path = tmp_path / "margins.jsonl"
        path.write_text("".join(f"{json.dumps({**row, 'by': 4})}\n" for row in rows(32)))
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"files": (path,)})})
        return values(train(recipe, tmp_path / str(len(list(tmp_path.iterdir())))), "loss")[0]

    plain = first()
    assert plain == pytest.approx(np.log(2), abs=0.5)  # a new head knows nothing
    assert plain + 2 < first(columns={"margin": "by"}) < plain + 4
    assert first(center_rewards_coefficient=1.0) > plain


def test_figures_are_those_of_peft_and_transformers(run: Run, kit: Path) -> None:
    evaluation = evaluate_run(run, EvaluationOptions(require=parsed(["accuracy>=0.8"])))
    base = AutoModelForSequenceClassification.from_pretrained(kit / "bert", num_labels=1)
    model = PeftModel.from_pretrained(base, run.adapter_path).eval()
    tokenizer = AutoTokenizer.from_pretrained(kit / "bert")
    test = rows(9, 100)

    def reward(row: dict[str, Any], side: str) -> float:
        texts = row["prompt"][0]["content"], row[side][0]["content"]
        with torch.no_grad():
            inputs = tokenizer(*texts, return_tensors="pt", return_token_type_ids=True)
            return float(model(**inputs).logits)

    found = np.array([[reward(row, side) for side in ("chosen", "rejected")] for row in test])
    by = found[:, 0] - found[:, 1]
    metrics = evaluation["metrics"]
    assert metrics["accuracy"] == (by > 0).mean() >= 0.8
    assert metrics["margin"] == pytest.approx(by.mean(), abs=1e-4)
    longer = np.array([len(row["chosen"][0]["content"]) > len(row["rejected"][0]["content"]) for row in test])
    assert 0 < longer.sum() < 9
    assert metrics["accuracy_where_longer"] == (by[longer] > 0).mean()
    assert metrics["accuracy_where_shorter"] == (by[~longer] > 0).mean()
    assert evaluation["baselines"]["the longer one"]["metrics"]["accuracy"] == longer.mean()
    assert evaluation["requirements"][0]["passed"]
    assert evaluation["no_better"] == ""
    assert "accuracy where the better answer is longer" in run.report_path.read_text()
    line = json.loads((run.folder / "predictions.jsonl").read_text().splitlines()[0])
    assert line["rewards"] == pytest.approx(found[0], abs=1e-4)


def test_two_runs_are_compared(
    run: Run, make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = train(make(max_steps=1), tmp_path / "short")
    for one in (run, short):
        evaluate_run(one, EvaluationOptions())
    assert main(["compare", str(run.folder), str(short.folder)]) == 0
    assert "short against judge: accuracy" in capsys.readouterr().out


def test_a_bundle_ranks_answers_as_torch_does(run: Run, bundle: Path, kit: Path, tmp_path: Path) -> None:
    both = evaluate_run(run, EvaluationOptions(bundle=bundle))
    assert both["agreement"]["max_abs_p"] < 1e-4
    assert both["sides"]["ONNX"]["metrics"]["accuracy"] == both["metrics"]["accuracy"]
    asked = EvaluationOptions(data=(kit / "test.jsonl",), threads=1)
    alone = evaluate_bundle(bundle, tmp_path, asked)
    assert alone["metrics"]["margin"] == pytest.approx(both["metrics"]["margin"], abs=1e-3)
    row = json.loads((run.folder / "predictions.jsonl").read_text().splitlines()[0])
    with closing(load(bundle, threads=1)) as model:
        scores = rerank(model, row["prompt"], [row["chosen"], row["rejected"]], "judge")
    assert scores == pytest.approx(1 / (1 + np.exp(-np.array(row["rewards"]))), abs=1e-4)


def test_pairs_that_are_too_long_are_dropped_whole_or_refused(make: Make, tmp_path: Path) -> None:
    long = rows(41)[40]
    long["rejected"][0]["content"] = "war " * 300
    (tmp_path / "train.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in [*rows(32), long]))

    def recipe(policy: str) -> Any:
        made = make(task={"on_overlong": policy}, max_steps=1)
        data = made.data.model_copy(update={"files": (tmp_path / "train.jsonl",)})
        return made.model_copy(update={"data": data})

    with pytest.raises(DataError, match="1 of 42 rows have a side that is longer than 48 tokens"):
        train(recipe("error"), tmp_path / "error")
    found = train(recipe("drop"), tmp_path / "drop")
    data = json.loads(found.data_path.read_text())
    assert sum(data[split]["examples"] for split in ("train", "validation")) == 2 * 32


def test_what_only_chat_has_is_refused(make: Make, tmp_path: Path) -> None:
    recipe = make()
    weighted = recipe.model_copy(update={"data": recipe.data.model_copy(update={"weights": (1.0,)})})
    with pytest.raises(RecipeError, match="not for reward models"):
        train(weighted, tmp_path / "run")
