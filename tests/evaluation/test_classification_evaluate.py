"""Classifiers evaluated end to end: tiny runs, judged by the files they should be judged by, and what that writes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from peft import AutoPeftModelForSequenceClassification
from seqeval.metrics import f1_score
from sklearn.metrics import accuracy_score
from support import classified
from transformers import AutoTokenizer

from ptune.cli import main
from ptune.codecs.labels import Labels, Problem
from ptune.config.recipe import Recipe
from ptune.data.images.labelled import ImageRef
from ptune.data.shapes.labelled import LabelledRow
from ptune.errors import DataError, FormatError, PtuneError, UsageError
from ptune.evaluation.classification import baselines
from ptune.evaluation.classification.agreement import agreement
from ptune.evaluation.classification.evaluate import evaluate_run
from ptune.evaluation.classification.held_out import of_run
from ptune.evaluation.classification.outcome import Outcome
from ptune.evaluation.classification.results import measured_labels
from ptune.evaluation.classification.slices import slices
from ptune.evaluation.options import EvaluationOptions
from ptune.evaluation.parts import Judged
from ptune.evaluation.parts import table as parts_table
from ptune.evaluation.require import parsed, refuse_failed
from ptune.formats.run import Run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("classified")


@pytest.fixture(scope="module")
def text_run(folder: Path) -> Run:
    return classified.trained(folder, "text", "text")


@pytest.fixture(scope="module")
def tags_run(folder: Path) -> Run:
    return classified.trained(folder, "tags", "tags")


@pytest.fixture
def run(text_run: Run, tmp_path: Path) -> Run:
    """A copy of the run, to be changed at will."""
    return Run(shutil.copytree(text_run.folder, tmp_path / "run"))


def lines(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.folder / "predictions.jsonl").read_text().splitlines()]


def test_figures_are_those_of_plain_peft_on_the_test_file(run: Run, folder: Path) -> None:
    found = evaluate_run(run)
    assert found == json.loads(run.evaluation_path.read_text())
    assert (found["task"], found["problem"], found["split"]) == ("text-classification", "single", "test")
    rows = [json.loads(line) for line in (folder / "text.test.jsonl").read_text().splitlines()]
    model = AutoPeftModelForSequenceClassification.from_pretrained(run.adapter_path, num_labels=2).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    said = []
    for row, line in zip(rows, lines(run), strict=True):
        with torch.no_grad():
            scores = model(**tokenizer(row["text"], return_tensors="pt")).logits[0].softmax(-1)
        said.append(("bad", "good")[int(scores.argmax())])
        assert line["scores"] == pytest.approx(scores.tolist(), abs=1e-5)
        assert line["columns"] == {"from": row["from"]}
    gold = [row["label"] for row in rows]
    assert [line["gold"] for line in lines(run)] == gold
    assert [line["predicted"] for line in lines(run)] == said
    assert found["metrics"]["accuracy"] == pytest.approx(accuracy_score(gold, said))
    low, high = found["intervals"]["accuracy"]
    assert low <= found["metrics"]["accuracy"] <= high
    assert found["metrics"]["accuracy"] > found["baselines"]["commonest label"]["metrics"]["accuracy"]
    assert found["baselines"]["TF-IDF + logistic regression"]["metrics"]["accuracy"] > 0.7
    assert {one["column"] for one in found["slices"]} == {"length in characters", "label", "from"}
    [file] = found["files"]
    assert file["sha256"] == [f["sha256"] for f in json.loads(run.data_path.read_text())["files"]][1]


def test_tags_are_judged_by_entities(tags_run: Run) -> None:
    found = evaluate_run(tags_run)
    gold, said = ([line[side] for line in lines(tags_run)] for side in ("gold", "predicted"))
    assert found["metrics"]["f1"] == pytest.approx(f1_score(gold, said))
    assert found["classes"].keys() == {"PLACE"}
    assert found["baselines"]["look-up of words"]["metrics"]["f1"] == 1.0
    assert found["details"]["confusion_labels"] == ["O", "PLACE"]


def test_validation_is_the_split_that_training_validated_on(run: Run) -> None:
    recipe = Recipe.load(run.recipe_path)
    recipe.model_copy(update={"data": recipe.data.model_copy(update={"test": ()})}).save(run.recipe_path)
    data = json.loads(run.data_path.read_text())
    held = of_run(run)
    assert held.split == "validation"
    assert len(held.rows) == data["validation"]["examples"]
    assert len(held.train) == data["train"]["examples"]
    assert not {row.place for row in held.rows} & {row.place for row in held.train}
    assert [Path(file["path"]).name for file in held.files] == ["text.train.jsonl"]


def test_data_that_is_given_needs_no_other_file(run: Run, folder: Path, tmp_path: Path) -> None:
    given = classified.write(tmp_path / "mine.jsonl", classified.reviews(20, 200))
    recipe = Recipe.load(run.recipe_path)
    gone = recipe.data.model_copy(update={"files": (tmp_path / "gone.jsonl",)})
    recipe.model_copy(update={"data": gone}).save(run.recipe_path)
    found = evaluate_run(run, EvaluationOptions(data=[given]))
    assert (found["split"], found["examples"]) == ("given", 20)
    assert found["baselines"] == {}
    with pytest.raises(DataError, match="gone"):
        evaluate_run(run)


def test_an_unknown_label_is_told_with_its_place(run: Run, tmp_path: Path) -> None:
    given = classified.write(tmp_path / "mine.jsonl", [{"text": "a trip", "label": "god"}])
    with pytest.raises(DataError, match=r"mine\.jsonl.*'god' is unknown"):
        evaluate_run(run, EvaluationOptions(data=[given]))


def test_data_that_has_changed_is_refused_by_name(run: Run, tmp_path: Path) -> None:
    recipe = Recipe.load(run.recipe_path)
    other = tmp_path / "text.test.jsonl"
    other.write_bytes(recipe.data.test[0].read_bytes() + b"\n")
    recipe.model_copy(update={"data": recipe.data.model_copy(update={"test": (other,)})}).save(
        run.recipe_path
    )
    with pytest.raises(DataError, match=r"the data has changed since .*text\.test\.jsonl"):
        evaluate_run(run)


def test_requirements_decide_the_exit_code_and_the_export(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    place = str(run.folder)
    assert main(["evaluate", place, "--require", "accuracy>=0.5", "f1/good>=10%"]) == 0
    refuse_failed(run)
    assert main(["evaluate", place, "--require", "accuracy>=0.999", "log_loss<=5"]) == 1
    said = capsys.readouterr().out
    assert said.count("MISSED") == 1
    assert "require accuracy >= 0.999: is 0." in said
    recorded = json.loads(run.evaluation_path.read_text())["requirements"]
    assert [one["passed"] for one in recorded] == [False, True]
    with pytest.raises(PtuneError, match=r"accuracy >= 0\.999"):
        refuse_failed(run)
    assert main(["evaluate", place]) == 0
    refuse_failed(run)


@pytest.mark.parametrize("text", ["accuracy", "accuracy>=much", ">=0.5", "accuracy=0.5"])
def test_a_requirement_must_be_one(text: str) -> None:
    with pytest.raises(UsageError, match="NAME>=NUMBER"):
        parsed([text])


def test_a_requirement_names_a_figure(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run.folder), "--require", "acuracy>=0.5"]) == 2
    assert "balanced_accuracy" in capsys.readouterr().err
    assert not run.evaluation_path.is_file()


@pytest.mark.parametrize("name", ["f1/gud", "average_precision/good", "f1/", "accuracy/good"])
def test_a_label_that_is_not_there_is_refused_before_anything_is_computed(
    run: Run, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ptune.evaluation.classification.evaluate.outcome_of", pytest.fail)
    assert main(["evaluate", str(run.folder), "--require", f"{name}>=0.5"]) == 2
    told = capsys.readouterr().err
    assert f"no figure {name!r}" in told
    assert "where LABEL is bad, good" in told


def test_labels_that_have_figures() -> None:
    tags = ("O", "B-PER", "I-PER", "NOUN", "B")
    assert measured_labels(Labels(tags, "tags")) == ("PER", "NOUN", "_")
    assert measured_labels(Labels(("value",), "regression")) == ()
    assert measured_labels(Labels(("a", "b"), "multi")) == ("a", "b")


def test_a_run_that_is_not_finished_is_refused(run: Run) -> None:
    run.write_record(run.record().model_copy(update={"status": "interrupted"}))
    with pytest.raises(FormatError, match="--resume"):
        evaluate_run(run)


def test_model_hubs_can_read_the_card(run: Run) -> None:
    found = evaluate_run(run)
    data: Any = ModelCard(run.card_path.read_text()).data
    assert data.pipeline_tag == "text-classification"
    results = {result.metric_name: result.metric_value for result in data.eval_results}
    assert results["accuracy"] == pytest.approx(found["metrics"]["accuracy"], abs=1e-6)
    assert {result.dataset_split for result in data.eval_results} == {"test"}


def test_sides_that_say_the_same_agree() -> None:
    labels, rows = (
        Labels(("a", "b"), "single"),
        [LabelledRow("x", 0, "f, line 1"), LabelledRow("y", 1, "f, line 2")],
    )
    one = Outcome(labels, rows, [np.array([0.9, 0.1]), np.array([0.4, 0.6])])
    other = Outcome(labels, rows, [np.array([0.9, 0.1]), np.array([0.6, 0.4])])
    assert agreement(one, one) == {"labels": 1.0, "max_abs_p": 0.0}
    assert agreement(one, other) == {"labels": 0.5, "max_abs_p": pytest.approx(0.2)}


def test_slices_are_of_columns_with_few_values() -> None:
    labels = Labels(("a", "b"), "single")
    rows = [
        LabelledRow("x" * (at + 1), at % 2, f"f, line {at}", {"kind": "pq"[at % 4 == 0], "id": at, "same": 1})
        for at in range(40)
    ]
    scores = [np.array([1.0, 0.0], np.float32)] * 40
    found = slices(Outcome(labels, rows, scores))
    assert {one.column for one in found} == {"length in characters", "label", "kind"}
    assert {(one.value, one.rows, one.figure) for one in found if one.column == "label"} == {
        ("a", 20, 1.0),
        ("b", 20, 0.0),
    }
    assert sum(one.rows for one in found if one.column == "length in characters") == 40
    (p,) = [one for one in found if (one.column, one.value) == ("kind", "p")]
    assert p.rows == 30
    assert p.figure == pytest.approx(1 / 3)


def test_slices_of_tags_without_marks_are_measured_as_all_rows_are() -> None:
    labels = Labels(("O", "ORG", "PER"), "tags")
    rows = [
        LabelledRow(("a", "b", "c"), (1, 0, 2), f"f, line {at}", {"kind": "pq"[at % 2]}) for at in range(8)
    ]
    scores = [np.eye(3, dtype=np.float32)[[1, 0, 0]]] * 8
    found = slices(Outcome(labels, rows, scores))
    assert [one.value for one in found] == ["p", "q"]
    for one in found:  # of two entities the one, and no wrong one
        assert one.figure == pytest.approx(2 / 3)


def test_baselines_stop_in_time_and_say_so() -> None:
    labels = Labels(("a", "b", "c"), "single")
    chance = np.random.default_rng(0)
    rows = [
        LabelledRow(" ".join(map(str, chance.integers(0, 500, 30))), int(chance.integers(3)), "")
        for _ in range(400)
    ]
    found = baselines.baselines(labels, rows, rows[:50], limit_s=0.0)["TF-IDF + logistic regression"]
    assert "note" in found or found["metrics"]["accuracy"] > 0.5
    assert baselines.baselines(labels, [], rows) == {}


@pytest.mark.parametrize("problem", ["multi", "regression"])
def test_baselines_of_other_problems(problem: Problem) -> None:
    labels = Labels(("a", "b") if problem == "multi" else ("value",), problem)
    rows = [
        LabelledRow(
            "good good" if at % 2 else "bad bad",
            ((0, 1) if at % 2 else (1,)) if problem == "multi" else at % 2 * 4.0,
            "",
        )
        for at in range(40)
    ]
    found = baselines.baselines(labels, rows, rows)
    name = "TF-IDF + logistic regression" if problem == "multi" else "TF-IDF + ridge regression"
    main_metric = "f1_micro" if problem == "multi" else "mae"
    better, worse = found[name]["metrics"][main_metric], found["commonest label"]["metrics"][main_metric]
    assert better > worse if problem == "multi" else better < worse


def test_pixels_tell_light_images_from_dark_ones() -> None:
    pixels = np.repeat(np.arange(40, dtype=np.uint8) % 2 * 200, 64).reshape(40, 8, 8)
    rows = [LabelledRow(ImageRef(Path("x.npz"), at, pixels), at % 2, "") for at in range(40)]
    found = baselines.baselines(Labels(("dark", "light"), "single"), rows[:30], rows[30:])
    assert found["pixels + logistic regression"]["metrics"]["accuracy"] == 1.0
    late = baselines.baselines(Labels(("dark", "light"), "single"), rows[:30], rows[30:], limit_s=-1.0)
    assert list(late) == ["commonest label"]


def test_many_images_in_the_order_of_their_labels_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of them had one label, and there was no baseline but the commonest label."""
    monkeypatch.setattr(baselines, "MOST_IMAGES", 12)
    pixels = np.repeat(np.arange(40, dtype=np.uint8) // 20 * 200, 64).reshape(40, 8, 8)
    rows = [LabelledRow(ImageRef(Path("x.npz"), at, pixels), at // 20, "") for at in range(40)]
    found = baselines.baselines(Labels(("dark", "light"), "single"), rows, rows)
    assert found["pixels + logistic regression"]["metrics"]["accuracy"] == 1.0


def test_per_cent_of_a_figure_that_is_out_of_a_hundred() -> None:
    """chrF is 12 of 100: it was held to 0.5, and kept."""
    [chrf, accuracy] = parsed(["chrf>=50%", "accuracy>=50%"])
    assert not chrf.checked({"chrf": 12.0})["passed"]
    assert chrf.checked({"chrf": 50.0})["passed"]
    assert accuracy.checked({"accuracy": 0.5})["passed"]
    with pytest.raises(UsageError, match="accuracy>=nan"):
        parsed(["accuracy>=nan"])


def test_nothing_is_kept_of_a_part_that_gained_nothing() -> None:
    """A part and a combination that are both worse than the base had "kept" half of a gain."""
    sides: list[dict[str, float | int]] = [{"loss": loss} for loss in (2.0, 2.5, 2.25)]
    worse = Judged("a", "test", 9, *sides)
    better = Judged("b", "test", 9, sides[1], sides[0], sides[2])
    assert list(parts_table([worse, better]).columns[-1].cells) == ["–", "50%"]
