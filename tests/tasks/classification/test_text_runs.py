"""Runs of text and token classification: learnt, repeated and resumed to the byte, and read by transformers and peft."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import AutoPeftModelForSequenceClassification, AutoPeftModelForTokenClassification
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from ptune.config.recipe import Recipe, Train
from ptune.data.shapes.labelled import read_labelled
from ptune.errors import BackboneError, DataError, RecipeError
from ptune.fine_tune import train
from ptune.formats.run import Run
from ptune.methods.freeze import FreezeExceptLast
from ptune.methods.full import Full
from ptune.methods.lora import Lora
from ptune.tasks.classification.predictions import predictor
from ptune.tasks.encoder.facts import Facts
from ptune.training import loop
from ptune.training.journal.metrics_log import read
from ptune.training.preparation import optimizer_for

from .conftest import Make, sentences, texts, write

METHODS = {"lora": Lora(r=4, alpha=8), "freeze": FreezeExceptLast(layers=1), "full": Full()}


def predictions(run: Run, recipe: Recipe) -> tuple[list[Any], list[np.ndarray[Any, Any]]]:
    rows = read_labelled(recipe.data.test, recipe.task, Facts.of_run(run).named)  # type: ignore[arg-type]
    return rows, predictor(run, "cpu")(rows, lambda count: None)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("name", "model"), [("texts", "bert"), ("words", "bert"), ("texts", "poolerless"), ("texts", "distilbert"), ("words", "roberta"), ("texts", "llama"), ("words", "llama")])  # fmt: skip
def test_every_method_saves_what_reads_back_the_same(
    make: Make, tmp_path: Path, name: str, model: str, method: str
) -> None:
    recipe = make(name, model, METHODS[method], max_steps=2)
    run = train(recipe, tmp_path / "run")
    record, facts = run.record(), Facts.of_run(run)
    (hop,) = record.hops
    assert (record.status, hop.max_abs_logprob, hop.passed, hop.prompts) == ("finished", 0.0, True, 8)
    assert run.has_adapter == (method == "lora")
    assert facts.base == record.base.hash
    assert facts.labels == (("bad", "good") if name == "texts" else ("O", "B-X", "I-X"))
    assert facts.max_length == 256
    rows, logits = predictions(run, recipe)
    shapes = [(len(row.input), 3) if name == "words" else (2,) for row in rows]
    assert [one.shape for one in logits] == shapes


@pytest.mark.parametrize(
    ("name", "rows", "method", "lr"), [("texts", texts, "lora", 1e-2), ("words", sentences, "full", 2e-3)]
)
def test_it_learns(make: Make, tmp_path: Path, name: str, rows: Any, method: str, lr: float) -> None:
    files = {
        "files": (write(tmp_path / "train.jsonl", rows(120)),),
        "test": (write(tmp_path / "test.jsonl", rows(40, start=200)),),
    }
    recipe = make(name, method=METHODS[method], epochs=6, lr=lr)
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update=files)})
    run = train(recipe, tmp_path / "run")
    tested, logits = predictions(run, recipe)
    right = [np.mean(one.argmax(-1) == np.array(row.label)) for row, one in zip(tested, logits, strict=True)]
    assert np.mean(right) > 0.85  # .97 to 1 over five seeds; a guess has .5
    losses = [entry["validation_loss"] for entry in read(run.metrics_path) if "validation_loss" in entry]
    assert min(losses) < 0.5 * losses[0]


@pytest.mark.parametrize("method", METHODS)
def test_words_begin_with_the_shares_of_their_tags(make: Make, tmp_path: Path, method: str) -> None:
    run = train(make("words", method=METHODS[method], max_steps=1, lr=1e-9), tmp_path / "run")
    folder = run.adapter_path if run.has_adapter else run.model_path
    (file,) = folder.glob("*model.safetensors")
    (bias,) = [tensor for name, tensor in load_file(file).items() if name.endswith("classifier.bias")]
    tags = [tag for row in sentences(32) for tag in row["tags"]]
    shares = [tags.count(tag) / len(tags) for tag in ("O", "B-X", "I-X")]
    assert bias.softmax(0).tolist() == pytest.approx(shares, abs=0.02)  # a tenth of the rows validates


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_head_has_a_rate_of_its_own(make: Make, tmp_path: Path, method: str) -> None:
    models = []
    for name, rates in (("slow", {}), ("fast", {"head_lr": 1e-2})):
        run = train(make(method=METHODS[method], max_steps=2, lr=1e-9, **rates), tmp_path / name)
        folder = run.adapter_path if run.has_adapter else run.model_path
        (file,) = folder.glob("*model.safetensors")
        models.append(load_file(file))
    for name, before in models[0].items():
        moved = float((models[1][name] - before).abs().max())
        assert (moved > 1e-3) == ("classifier" in name), name


def test_a_rate_for_a_head_needs_a_head() -> None:
    with pytest.raises(RecipeError, match=r"train\.head_lr: .* no head"):
        optimizer_for(torch.nn.Linear(2, 2), Train(head_lr=1e-3))


def test_a_number_is_learnt_and_has_no_accuracy(make: Make, kit: Path, tmp_path: Path) -> None:
    rows = [{**row, "label": 2.5 if row["label"] == "good" else -1.5} for row in texts(40)]
    recipe = make(epochs=10, lr=1e-2)
    recipe = recipe.model_copy(
        update={
            "data": recipe.data.model_copy(update={"files": (write(tmp_path / "n.jsonl", rows),), "test": ()})
        }
    )
    run = train(recipe, tmp_path / "run")
    losses = [entry["validation_loss"] for entry in read(run.metrics_path) if "validation_loss" in entry]
    assert min(losses) < 0.3 * losses[0]
    assert not [entry for entry in read(run.metrics_path) if "validation_accuracy" in entry]
    (hop,) = run.record().hops
    assert (hop.max_abs_logprob, hop.mean_kl, hop.limit) == (0.0, None, "max |Δ| ≤ 1e-05")


def test_several_labels(make: Make, tmp_path: Path) -> None:
    rows = [
        {"text": row["text"], "labels": [row["label"]] + ["third"] * (not row["set"])} for row in texts(40)
    ]
    recipe = make(max_steps=2)
    data = recipe.data.model_copy(update={"files": (write(tmp_path / "m.jsonl", rows),), "test": ()})
    run = train(recipe.model_copy(update={"data": data}), tmp_path / "run")
    assert Facts.of_run(run).problem == "multi"
    assert run.record().hops[0].max_abs_logprob == 0.0


@pytest.mark.parametrize("name", ["texts", "words"])
def test_recipe_yaml_reruns_and_a_resume_goes_on_to_the_same_bytes(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    recipe = make(name, method=Lora(r=4, dropout=0.2), max_steps=4, validate_every=2, head_lr=3e-2)
    whole = train(recipe, tmp_path / "whole")
    again = train(Recipe.load(whole.recipe_path), tmp_path / "again")

    def stopped(job: Any, batch: Any, step: int, steps: int) -> float:
        if step == 3:
            raise KeyboardInterrupt
        return step_of(job, batch, step, steps)

    step_of = loop.optimizer_step
    monkeypatch.setattr(loop, "optimizer_step", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "resumed")
    monkeypatch.setattr(loop, "optimizer_step", step_of)
    resumed = train(recipe, tmp_path / "resumed", resume=True)
    for other in (again, resumed):
        for file in ("adapter_model.safetensors", "adapter_config.json", "ptune.json"):
            assert (other.adapter_path / file).read_bytes() == (whole.adapter_path / file).read_bytes()
    seeded = train(make(name, method=Lora(r=4, dropout=0.2), max_steps=4, seed=1), tmp_path / "seeded")
    heads = [load_file(run.adapter_path / "adapter_model.safetensors") for run in (whole, seeded)]
    (key,) = [key for key in heads[0] if key.endswith("classifier.weight")]
    assert not torch.equal(heads[0][key], heads[1][key])


def test_a_resume_on_other_data_is_refused(make: Make, kit: Path, tmp_path: Path) -> None:
    recipe = make(max_steps=2, validate_every=1)
    file = write(tmp_path / "own.jsonl", texts(32))
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"files": (file,)})})
    run = train(recipe, tmp_path / "run")
    run.write_record(run.record().model_copy(update={"status": "interrupted"}))
    write(file, texts(33))
    with pytest.raises(DataError, match=r"restore the contents of .*own\.jsonl"):
        train(recipe, tmp_path / "run", resume=True)


def test_peft_reads_the_adapter(make: Make, kit: Path, tmp_path: Path) -> None:
    for name, kind in (
        ("texts", AutoPeftModelForSequenceClassification),
        ("words", AutoPeftModelForTokenClassification),
    ):
        recipe = make(name, epochs=4)
        run = train(recipe, tmp_path / name)
        facts = Facts.of_run(run)
        model = kind.from_pretrained(
            run.adapter_path, num_labels=len(facts.labels), id2label=dict(enumerate(facts.labels))
        ).eval()
        tokenizer = AutoTokenizer.from_pretrained(kit / "bert")
        rows, logits = predictions(run, recipe)
        for row, expected in zip(rows, logits, strict=True):
            inputs = tokenizer(row.input, is_split_into_words=name == "words", return_tensors="pt")
            with torch.no_grad():
                found = model(**inputs).logits[0]
            if name == "words":
                owners = inputs.word_ids()
                found = found[[owners.index(word) for word in range(len(row.input))]]
            np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("model", ["bert", "distilbert", "roberta", "llama"])
def test_a_pipeline_of_the_saved_model_gives_the_same_labels(make: Make, tmp_path: Path, model: str) -> None:
    recipe = make(model=model, method=Full(), epochs=4, lr=1e-3)
    run = train(recipe, tmp_path / "run")
    rows, logits = predictions(run, recipe)
    classify = pipeline("text-classification", model=str(run.model_path), top_k=None)
    for row, expected in zip(rows, Facts.of_run(run).named.scores(np.stack(logits)), strict=True):
        found = {one["label"]: one["score"] for one in classify([row.input])[0]}
        np.testing.assert_allclose([found["bad"], found["good"]], expected, atol=1e-5)


def test_a_pipeline_tags_as_the_run_does(make: Make, tmp_path: Path) -> None:
    recipe = make("words", method=Full(), epochs=6, lr=2e-3)
    run = train(recipe, tmp_path / "run")
    rows, logits = predictions(run, recipe)
    tag = pipeline("token-classification", model=str(run.model_path), ignore_labels=[])
    names = Facts.of_run(run).labels
    for row, expected in zip(rows, logits, strict=True):
        text, starts = " ".join(row.input), dict[int, str]()
        for word in row.input:
            starts[len(" ".join(row.input[: len(starts)])) + bool(starts)] = word
        found = [one["entity"] for one in tag(text) if one["start"] in starts]
        assert found == [names[at] for at in expected.argmax(-1)]


def test_special_tokens_in_a_text_are_spelled_in_the_saved_model_too(make: Make, tmp_path: Path) -> None:
    run = train(make(method=Full(), max_steps=1), tmp_path / "run")
    tokenizer = AutoTokenizer.from_pretrained(run.model_path)
    assert tokenizer("a [SEP] b")["input_ids"].count(tokenizer.sep_token_id) == 1
    config = AutoModelForSequenceClassification.from_pretrained(run.model_path).config
    assert (config.id2label, config.problem_type) == ({0: "bad", 1: "good"}, "single_label_classification")


def test_a_full_model_can_be_trained_on(make: Make, tmp_path: Path) -> None:
    """With its head, or under another one."""
    first = train(make(method=Full(), max_steps=2), tmp_path / "first")
    again = make(max_steps=2)
    backbone = again.backbone.model_copy(update={"model": str(first.model_path)})
    second = train(again.model_copy(update={"backbone": backbone}), tmp_path / "second")
    other = make("words", max_steps=2).model_copy(update={"backbone": backbone})
    third = train(other, tmp_path / "third")
    assert second.record().base.hash == third.record().base.hash != first.record().base.hash
    assert Facts.of_run(third).head == ("classifier",)


def test_the_encoder_is_the_same_under_every_head(make: Make, tmp_path: Path) -> None:
    runs = [train(make(name, max_steps=1), tmp_path / name) for name in ("texts", "words")]
    assert len({run.record().base.hash for run in runs}) == 1


def test_what_gradient_checkpointing_trains_is_the_same(make: Make, tmp_path: Path) -> None:
    runs = [train(make(gradient_checkpointing=on, max_steps=2), tmp_path / str(on)) for on in (False, True)]
    first, second = (load_file(run.adapter_path / "adapter_model.safetensors") for run in runs)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_run_tells_what_it_was_trained_on(make: Make, tmp_path: Path) -> None:
    run = train(make(task={"max_length": 8, "class_weights": "balanced", "label_smoothing": 0.1}, max_steps=1), tmp_path / "run")  # fmt: skip
    data = json.loads(run.data_path.read_text())
    assert data["labels"] == ["bad", "good"]
    assert sum(data["train"]["labels"].values()) == data["train"]["examples"] == 29
    assert data["train"]["overlong"] > 0
    assert [finding["rule"] for finding in data["findings"]] == ["over-long"] * 3
    assert all(file["sha256"] for file in data["files"])
    assert Facts.of_run(run).max_length == 8


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"backbone": {"quantize": "int8"}}, "backbone.quantize 'int8' is for chat"),
        ({"backbone": {"new_tokens": ("x",)}}, "backbone.new_tokens is for chat"),
        ({"task": {"problem": "regression", "label_smoothing": 0.1}}, "task.label_smoothing is for labels"),
        (
            {"task": {"problem": "regression", "class_weights": "balanced"}},
            "task.class_weights is for labels",
        ),
    ],
)
def test_options_that_mean_nothing_here(
    make: Make, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    rows = [{**row, "label": 0.5} for row in texts(8)]
    recipe = make()
    values = {name: getattr(recipe, name).model_copy(update=of) for name, of in changes.items()}
    data = recipe.data.model_copy(update={"files": (write(tmp_path / "n.jsonl", rows),), "test": ()})
    with pytest.raises(RecipeError, match=said):
        train(recipe.model_copy(update={**values, "data": data}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_rows_that_are_too_long(make: Make, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"of 40 rows are longer than 8 tokens \(longest \d+, .*line \d+\); use --task"
    ):
        train(make(task={"max_length": 8, "on_overlong": "error"}), tmp_path / "run")
    with pytest.raises(DataError, match=r"no train example is left: all are longer than 4 tokens \(drop\)"):
        train(make(task={"max_length": 4, "on_overlong": "drop"}), tmp_path / "run")


def test_one_class_only_and_a_test_set_that_is_trained_on_are_errors(
    make: Make, kit: Path, tmp_path: Path
) -> None:
    recipe = make()
    one = write(tmp_path / "one.jsonl", [row for row in texts(16) if row["label"] == "bad"])
    for files, test, said in (
        ((one,), (), r"one\.jsonl:\d+: 'bad' is the label of every training example: .*\[one-class\]"),
        (recipe.data.files, recipe.data.files, r"32 of 32|of 32 test rows.*\[test-overlap\]"),
    ):
        data = recipe.data.model_copy(update={"files": files, "test": test})
        with pytest.raises(DataError, match=said):
            train(recipe.model_copy(update={"data": data}), tmp_path / "run")


def test_an_adapter_is_not_put_on_another_base(make: Make, tmp_path: Path) -> None:
    recipe = make("texts", max_steps=1)
    base = shutil.copytree(recipe.backbone.model, tmp_path / "base")
    recipe = recipe.model_copy(update={"backbone": recipe.backbone.model_copy(update={"model": str(base)})})
    run = train(recipe, tmp_path / "run")
    predictor(run, "cpu")
    tensors = load_file(base / "model.safetensors")
    name = next(name for name in tensors if "layer.1" in name)
    save_file({**tensors, name: tensors[name] + 1e-3}, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        BackboneError, match=rf"base is not the base that {run.folder} was trained on: its weights hash"
    ):
        predictor(run, "cpu")
