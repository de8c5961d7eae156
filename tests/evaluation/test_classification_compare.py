"""Runs beside each other: paired tests against scipy, and no comparison of what is not comparable."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import f1_score
from support import classified

from ptune.cli import main
from ptune.config.recipe import Data, Recipe, Train
from ptune.config.reinforcement import Reinforcement
from ptune.errors import FormatError, UsageError
from ptune.evaluation.classification.evaluate import evaluate_run
from ptune.evaluation.compare import Compared, Comparison, compare
from ptune.evaluation.compare_table import html as html_of
from ptune.evaluation.compare_table import tests as told_of
from ptune.evaluation.evaluate import evaluate
from ptune.evaluation.options import EvaluationOptions
from ptune.evaluation.paired import Difference, differences, mcnemar
from ptune.formats.run import Run
from ptune.methods.full import Full


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    folder = tmp_path_factory.mktemp("compared")
    one = classified.trained(folder, "text", "one")
    other = classified.trained(
        folder,
        "text",
        "other",
        method=Full(),
        train=Train(max_steps=3, lr=1e-3, batch_size=16, validate_every=3),
    )
    for run in (one, other):
        evaluate_run(run)
    return one, other


def copied(run: Run, place: Path) -> Run:
    return Run(shutil.copytree(run.folder, place))


def test_mcnemar_is_the_exact_binomial_test() -> None:
    one = np.array([1] * 9 + [0] * 2 + [1] * 20, bool)
    other = np.array([0] * 9 + [1] * 2 + [1] * 20, bool)
    assert mcnemar(one, other) == pytest.approx(binomtest(9, 11, 0.5).pvalue)
    assert mcnemar(one, one) == 1.0


def test_a_real_difference_is_found_and_none_is_not() -> None:
    chance = np.random.default_rng(0)
    gold = chance.choice(["a", "b", "c"], 300)

    def said(share: float) -> list[dict[str, str]]:
        right = chance.random(300) < share
        return [
            {"gold": str(g), "predicted": str(g if r else {"a": "b", "b": "c", "c": "a"}[str(g)])}
            for g, r in zip(gold, right, strict=True)
        ]

    good, same, bad = said(0.85), said(0.85), said(0.6)
    found = {one.metric: one for one in differences("single", ("a", "b", "c"), good, bad)}
    macro = [f1_score(gold, [line["predicted"] for line in side], average="macro") for side in (good, bad)]
    assert found["f1_macro"].value == pytest.approx(macro[0] - macro[1], abs=1e-6)
    for one in found.values():
        assert one.interval[0] > 0
        assert one.p < 0.01
    for one in differences("single", ("a", "b", "c"), good, same):
        assert one.interval[0] < 0 < one.interval[1]
        assert one.p > 0.05


@pytest.mark.parametrize(
    ("problem", "better", "worse"),
    [
        ("regression", [(2.0, 2.1), (3.0, 3.0)], [(2.0, 4.0), (3.0, 5.0)]),
        ("multi", [(["a"], ["a"]), ([], [])], [(["a"], ["b"]), ([], ["b"])]),
        ("tags", [(["B-X", "O"], ["B-X", "O"])] * 2, [(["B-X", "O"], ["O", "O"])] * 2),
    ],
)
def test_other_problems_are_tested_by_the_paired_bootstrap(
    problem: str, better: list[Any], worse: list[Any]
) -> None:
    here, there = ([{"gold": g, "predicted": p} for g, p in pairs] * 20 for pairs in (better, worse))
    (found,) = differences(problem, ("a", "b"), here, there)
    assert found.test == "paired bootstrap"
    assert found.p < 0.05
    assert (found.value < 0) == (problem == "regression")


@pytest.mark.parametrize("rows", [1, 3, 5])
def test_a_few_rows_are_no_proof(rows: int) -> None:
    """However far apart, with 5 rows or fewer: all of a few coins fall alike too often."""
    near, far = ([{"gold": 1.0, "predicted": said}] * rows for said in (1.1, 9.0))
    (found,) = differences("regression", (), near, far)
    assert found.value == pytest.approx(-7.9, abs=1e-6)
    assert found.p == pytest.approx(binomtest(rows, rows, 0.5).pvalue)
    same = [{"gold": 1.0, "predicted": 2.0}] * 100
    (more,) = differences("regression", (), same + near, same + far)
    assert more.p >= binomtest(rows, rows, 0.5).pvalue


def test_a_figure_that_the_rows_do_not_have_is_not_tested() -> None:
    """Of answers without a wrong step none can be found: there was no figure, and p = 0.002."""
    whole = ["right", "right"]
    kept, missed = ([{"gold": whole, "predicted": [*said]}] * 20 for said in (whole, ["right", "wrong"]))
    (steps,) = differences("steps", (), kept, missed)
    assert steps.metric == "step_accuracy"
    faulty = {"gold": ["right", "wrong"]}
    found = differences(
        "steps",
        (),
        [*kept, {**faulty, "predicted": ["right", "wrong"]}],
        [*kept, {**faulty, "predicted": whole}],
    )
    assert [one.metric for one in found] == ["step_accuracy", "first_wrong_f1"]
    assert found[1].value == pytest.approx(1.0)
    assert np.isfinite(found[1].interval).all()
    assert [one.p for one in found] == [1.0, 1.0]  # one row that differs


def test_reward_models_are_compared_pair_by_pair() -> None:
    """Two thirds of the pairs are in order with one, a third with the other: 20 that the first alone has right, none the second."""
    one = [{"rewards": [2.0, 1.0]}, {"rewards": [2.0, 1.5]}, {"rewards": [0.0, 1.0]}] * 20
    other = [{"rewards": [2.0, 1.0]}, {"rewards": [0.0, 0.5]}, {"rewards": [0.0, 1.0]}] * 20
    accuracy, margin = differences("pairs", (), one, other)
    assert (accuracy.metric, margin.metric) == ("accuracy", "margin")
    assert accuracy.value == pytest.approx(1 / 3, abs=1e-6)
    assert accuracy.p == pytest.approx(2 * 0.5**20)
    assert margin.value == pytest.approx((0.5 + 0.5) / 3, abs=1e-6)
    assert margin.interval[0] > 0


@pytest.mark.parametrize(
    ("metric", "told"),
    [
        ("accuracy", "+2.50 points [+1.00, +4.00]"),
        ("chrf", "+2.50 points [+1.00, +4.00]"),
        ("margin", "+2.50 [+1.00, +4.00]"),
        ("mae", "+2.50 [+1.00, +4.00]"),
    ],
)
def test_a_difference_is_told_in_the_units_of_its_figure(metric: str, told: str) -> None:
    """Accuracies are shares of 1, chrF is out of a hundred, a margin and an error are plain numbers."""
    by = 0.01 if metric == "accuracy" else 1.0
    apart = Difference(metric, 2.5 * by, (1.0 * by, 4.0 * by), 0.01, "paired bootstrap")
    lines = tuple(
        Compared(name, {metric: 0.5}, {}, None, 1.0, 1, "Lora", 1e-3, tested)
        for name, tested in (("a", ()), ("b", (apart,)))
    )
    (sentence,) = told_of(Comparison("task", "test", 100, (metric,), lines))
    assert told in sentence


def test_one_table_of_figures_and_cost(
    runs: tuple[Run, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "compared.html"
    assert main(["compare", *(str(run.folder) for run in runs), "--html", str(page)]) == 0
    said = capsys.readouterr().out
    assert "McNemar, exact" in said
    assert "Full" in said
    assert "other against one: accuracy -" in said
    assert "other is worse" in said
    found = compare([run.folder for run in runs])
    one, other = found.runs
    assert one.metrics == json.loads(runs[0].evaluation_path.read_text())["metrics"]
    assert one.differences == ()
    assert other.differences[0].value == pytest.approx(other.metrics["accuracy"] - one.metrics["accuracy"])
    body = runs[1].record().base.parameters
    assert one.parameters is not None
    assert other.parameters is not None
    assert one.parameters < body <= other.parameters
    text = page.read_text()
    assert "https:" not in text
    assert "More than luck?" in text


def test_other_data_is_refused_by_name(runs: tuple[Run, Run], tmp_path: Path) -> None:
    one, other = runs[0], copied(runs[1], tmp_path / "other")
    given = classified.write(tmp_path / "text.test.jsonl", classified.reviews(60, 230))
    evaluate_run(other, EvaluationOptions(data=[given]))
    with pytest.raises(UsageError, match=r"split \(test and given\); SHA-256 of text\.test\.jsonl"):
        compare([one.folder, other.folder])
    recorded = json.loads(one.evaluation_path.read_text())
    changed = {**recorded, "rows_sha256": "0" * 64}
    same_files = copied(runs[1], tmp_path / "rows")
    same_files.evaluation_path.write_text(json.dumps(changed))
    with pytest.raises(UsageError, match="rows"):
        compare([one.folder, same_files.folder])


def test_a_run_that_was_not_evaluated_is_named(runs: tuple[Run, Run], tmp_path: Path) -> None:
    other = copied(runs[1], tmp_path / "other")
    other.evaluation_path.unlink()
    with pytest.raises(FormatError, match=r"ptune evaluate .*other"):
        compare([runs[0].folder, other.folder])
    with pytest.raises(UsageError, match="two runs"):
        compare([runs[0].folder])
    with pytest.raises(UsageError, match="is there twice"):
        compare([runs[0].folder, runs[0].folder.parent / "." / runs[0].folder.name])


def test_chat_runs_are_compared_by_loss(run: Run, runs: tuple[Run, Run], tmp_path: Path) -> None:
    evaluate(run)
    again = copied(run, tmp_path / "again")
    found = compare([run.folder, again.folder])
    assert found.task == "chat"
    assert found.runs[0].metrics["loss"] == json.loads(run.evaluation_path.read_text())["after"]["loss"]
    assert found.runs[1].differences == ()
    with pytest.raises(UsageError, match="task"):
        compare([run.folder, runs[0].folder])


def rewarded(folder: Path, reward: str, mean: float, seed: int = 0, share: float = 0.1) -> Path:
    """A run whose answers were rewarded, as far as a comparison reads it."""
    folder.mkdir()
    data = {"files": [{"split": "train", "path": "a.jsonl", "sha256": "1" * 64}]}
    rewards = {"reward": {"value": mean, "interval": [mean - 0.5, mean + 0.5]}}
    evaluation = {
        "split": "validation",
        "examples": 9,
        "rewards": {"tuned": rewards},
        "after": {"reward": mean},
    }
    record = {
        "created": "2025-01-01",
        "base": {"hash": "sha256:00", "source": "none"},
        "steps": 3,
        "method": "Lora",
    }
    for name, value in (("data", data), ("evaluation", evaluation), ("run", record)):
        (folder / f"{name}.json").write_text(json.dumps(value))
    recipe = Recipe(
        task=Reinforcement(rewards=(reward,)),
        data=Data(files=(Path("a.jsonl"),), validation_share=share),
        train=Train(seed=seed),
    )
    recipe.save(folder / "recipe.yaml")
    return folder


def test_rewards_are_shown_as_they_are(tmp_path: Path) -> None:
    """A mean reward of 3.2 was shown as 320.0%, and without its interval."""
    found = compare([rewarded(tmp_path / "a", "exact", 3.2), rewarded(tmp_path / "b", "exact", -0.5)])
    page = html_of(found)
    assert '<td class="number better">3.200<small>[2.700, 3.700]</small></td>' in page
    assert "-0.500" in page
    assert "%<" not in page


def test_other_rewards_and_rows_drawn_by_another_seed_are_refused(tmp_path: Path) -> None:
    one = rewarded(tmp_path / "a", "0.5*/there/mine.py:polite", 1.0)
    compare([one, rewarded(tmp_path / "same", "0.5*here/mine.py:polite", 1.0)])
    other = rewarded(tmp_path / "b", "exact", 1.0)
    with pytest.raises(UsageError, match=r"rewards \(0\.5\*mine\.py:polite and exact\)"):
        compare([one, other])
    drawn = rewarded(tmp_path / "c", "exact", 1.0, seed=1)
    with pytest.raises(UsageError, match=r"train\.seed, which held rows out \(0 and 1\)"):
        compare([other, drawn])
    less = rewarded(tmp_path / "d", "exact", 1.0, share=0.12)
    with pytest.raises(UsageError, match=r"data\.validation_share \(0\.1 and 0\.12\)"):
        compare([other, less])


def test_chat_runs_have_requirements_too(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run.folder), "--require", "loss<=100", "token_accuracy>=0.999"]) == 1
    assert "require token_accuracy >= 0.999: is 0." in capsys.readouterr().out
    assert main(["evaluate", str(run.folder), "--require", "accuracy>=0.1"]) == 2
    assert main(["evaluate", str(run.folder), "--data", "x.jsonl"]) == 2
