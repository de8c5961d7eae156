"""Figures, slices and worst errors as the page shows them, of every shape that evaluation.json has."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from ptune.config.classification import TextClassification
from ptune.config.columns import TextColumns
from ptune.config.recipe import Recipe
from ptune.evaluation.compare import Compared, Comparison
from ptune.evaluation.paired import Difference
from ptune.formats.run import Run
from ptune.studio.judge.compared import of
from ptune.studio.judge.evaluated import tables
from ptune.studio.judge.texts import texts_of
from ptune.studio.judge.worst import worst

CHAT: dict[str, Any] = {
    "format": 1, "split": "test", "examples": 40,
    "before": {"loss": 3.5, "perplexity": 33.1, "token_accuracy": 0.31, "targets": 900},
    "in_context": {"loss": 3.1, "perplexity": 22.2, "token_accuracy": 0.35, "targets": 900, "examples": 8},
    "after": {"loss": 2.25, "perplexity": 9.5, "token_accuracy": 0.52, "targets": 900},
    "answers": [], "requirements": [{"name": "loss", "sign": "<=", "limit": 2, "value": 2.25, "passed": False}],
}  # fmt: skip
MEAN = {"value": 0.75, "interval": [0.5, 0.875]}
LABELS: dict[str, Any] = {
    "format": 1, "split": "validation", "examples": 3, "task": "text-classification", "problem": "single",
    "labels": ["good", "bad"], "headline": ["accuracy", "log_loss"],
    "sides": {
        "torch": {"metrics": {"accuracy": 0.8, "log_loss": 0.5}, "intervals": {"accuracy": [0.7, 0.9]}},
        "ONNX": {"metrics": {"accuracy": 0.8}, "intervals": {}},
    },
    "baselines": {"commonest label": {"metrics": {"accuracy": 0.6, "log_loss": 0.4}, "intervals": {}}},
    "slices": [{"column": "label", "value": "<bad>", "rows": 9, "metric": "accuracy", "figure": 0.25, "interval": [0.1, 0.5]},
               {"column": "language", "value": "de", "rows": 1, "metric": "accuracy", "figure": 1.0, "interval": None}],
    "requirements": [],
}  # fmt: skip


def cells(html: str) -> list[str]:
    return [part.split("<")[0] for part in html.split(">") if part.split("<")[0]]


def test_before_and_after_of_a_chat(tmp_path: Path) -> None:
    found = cells(tables(CHAT, Run(tmp_path), tmp_path))
    for told in (
        "before",
        "before, 8 examples in the prompt",
        "after",
        "3.500",
        "3.100",
        "2.250 ✓",
        "52.0% ✓",
    ):
        assert told in found, told
    assert any("40 held-out rows (test)" in told for told in found)
    assert any("loss" in told and "2" in told for told in found), "the requirement that was missed"


def test_intervals_of_preferences_and_rewards(tmp_path: Path) -> None:
    pairs = {
        "pairs": 9,
        "base": {"likelier": MEAN},
        "tuned": {"likelier": MEAN, "preferred": MEAN},
        "by_length": {},
    }
    rewards = {"base": {"reward": MEAN}, "tuned": {"reward": MEAN}, "gain": {"reward": MEAN}}
    won = {"adapter": "judge", "prompts": 12, "win_rate": MEAN, "base": 0.1, "tuned": 0.2, "bundle": "b"}
    found = cells(
        tables({**CHAT, "pairs": pairs, "rewards": rewards, "reward_model": won}, Run(tmp_path), tmp_path)
    )
    assert found.count("50.0% to 87.5%") == 3
    assert found.count("0.500 to 0.875") == 3
    assert any("75.0% [50.0%, 87.5%] of 12 prompts" in told for told in found)


def test_sides_slices_and_worst_errors_of_labels(tmp_path: Path) -> None:
    lines = [
        {"place": "a.csv:2", "gold": "good", "predicted": "bad", "scores": [0.4, 0.6]},
        {"place": "a.csv:3", "gold": "good", "predicted": "good", "scores": [0.99, 0.01]},
        {"place": "a.csv:4", "gold": "bad", "predicted": "good", "scores": [0.9, 0.1]},
    ]
    (tmp_path / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    html = tables(LABELS, Run(tmp_path), tmp_path)
    found = cells(html)
    for told in (
        "80.0% ✓",
        "70.0% to 90.0%",
        "most common label",
        "your model (torch)",
        "0.400 ✓",
        "–",
        "&lt;bad&gt;",
        "10.0% to 50.0%",
    ):
        assert told in found, told
    assert "Worst errors: 2 of 3 rows are wrong" in found
    assert html.index("a.csv:4") < html.index("a.csv:2"), "the surest error first"
    assert "a.csv:3" not in html
    assert "<bad>" not in html


def test_no_better_than_a_baseline_is_said_first(tmp_path: Path) -> None:
    html = tables({**LABELS, "no_better": "no better than commonest label"}, Run(tmp_path), tmp_path)
    assert html.index("no better than most common label. The export will refuse it") < html.index("<table>")
    assert "Even if no better than a baseline" in html, "the checkbox of the tab Ship"
    assert "refuse" not in tables(LABELS, Run(tmp_path), tmp_path)


def test_worst_errors_have_the_texts_of_the_data(tmp_path: Path) -> None:
    long = "so " * 60
    (tmp_path / "a.csv").write_text(f'comment,verdict\n<b>fine</b>,bad\n"{long}",bad\nlast,bad\n')
    places = ["a.csv, line 2", "a.csv, line 3", "gone.csv, line 4"]
    lines = [{"place": one, "gold": "bad", "predicted": "good", "scores": [0.9, 0.1]} for one in places]
    run = Run(tmp_path / "runs" / "mine")
    run.folder.mkdir(parents=True)
    (run.folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[:2]))
    recipe = Recipe(task=TextClassification(columns=TextColumns(text="comment", label="verdict")))
    recipe.save(run.recipe_path)
    known = {"a.csv": sha256((tmp_path / "a.csv").read_bytes()).hexdigest(), "gone.csv": "0"}
    files = [{"path": path, "sha256": value} for path, value in known.items()]
    html = worst({**LABELS, "files": files}, run, tmp_path)
    assert "&lt;b&gt;fine&lt;/b&gt;<small>a.csv, line 2</small>" in html
    assert f"{long[:120].rstrip()} …<small>a.csv, line 3</small>" in html
    assert "last" not in html
    assert [*texts_of(places, run, tmp_path, known)] == places[:2], "a file is gone"
    (tmp_path / "a.csv").write_text("comment,verdict\nanother,bad\n")
    assert texts_of(places, run, tmp_path, known) == {}, "its lines are others now"


ROWS: list[tuple[str, list[dict[str, Any]], tuple[str, ...]]] = [
    (
        "multi",
        [
            {"place": "a", "gold": ["x"], "predicted": [], "scores": [0.4, 0.2]},
            {"place": "b", "gold": [], "predicted": ["x", "y"], "scores": [0.9, 0.95]},
            {"place": "c", "gold": ["y"], "predicted": ["y"], "scores": [0.1, 0.9]},
        ],
        ("2 of 3 rows are wrong", "b", "none", "x, y", "90.0%", "a", "60.0%"),
    ),
    (
        "regression",
        [
            {"place": "a", "gold": 1.0, "predicted": 1.5, "scores": [1.5]},
            {"place": "b", "gold": 4.0, "predicted": 1.0, "scores": [1.0]},
        ],
        ("furthest off", "b", "4", "1", "-3", "a", "+0.5"),
    ),
    (
        "tags",
        [
            {"place": "a", "gold": ["O", "B-X"], "predicted": ["O", "O"], "scores": [0.9, 0.8]},
            {"place": "b", "gold": ["B-Y", "B-X"], "predicted": ["O", "O"], "scores": [0.9, 0.8]},
        ],
        ("2 of 2 rows are wrong", "b", "B-X, B-Y", "none", "2", "a", "1"),
    ),
    (
        "ranking",
        [
            {"place": "a", "query": "q one", "right": ["r1"], "found": ["f1", "r1"], "figures": {"mrr": 0.5}, "scores": [1]},
            {"place": "b", "query": "q two", "right": ["r2"], "found": ["f2"], "figures": {"mrr": 0.0}, "scores": [1]},
            {"place": "c", "query": "q three", "right": ["r3"], "found": ["r3"], "figures": {"mrr": 1.0}, "scores": [1]},
        ],
        ("of 2 of 3 queries", "q two", "r2", "f2", "0.00", "q one", "r1", "f1", "0.50"),
    ),
    (
        "pairs",
        [
            {"place": "a", "prompt": "q1", "chosen": "c1", "rejected": "r1", "rewards": [1.0, 1.5]},
            {"place": "b", "prompt": "q2", "chosen": "c2", "rejected": "r2", "rewards": [-1.0, 2.0]},
            {"place": "c", "prompt": "q three", "chosen": "c3", "rejected": "r3", "rewards": [2.0, 1.0]},
        ],
        ("2 of 3 pairs", "q2", "c2", "r2", "-3.00", "q1", "c1", "r1", "-0.50"),
    ),
    (
        "translation",
        [
            {"place": "a", "source": "s1", "gold": "g1", "predicted": "p1", "figures": {"chrf": 60.0}},
            {"place": "b", "source": "s2", "gold": "g2", "predicted": "p2", "figures": {"chrf": 20.0}},
        ],
        ("furthest from", "s2", "g2", "p2", "20.0", "s1", "60.0"),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("problem", "lines", "told"), ROWS, ids=[one[0] for one in ROWS])
def test_worst_errors_of_every_problem(
    tmp_path: Path, problem: str, lines: list[dict[str, Any]], told: tuple[str, ...]
) -> None:
    (tmp_path / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    Recipe(task=TextClassification()).save(tmp_path / "recipe.yaml")
    found = cells(worst({"problem": problem, "files": []}, Run(tmp_path), tmp_path))
    caption, *rows = told
    assert caption in found[0]
    rest = iter(found)
    assert all(word in rest for word in rows), "the worst first, and no other rows between"
    assert not {"c", "q three"} & set(found), "what is right is no error"


def test_runs_beside_each_other() -> None:
    apart = Difference("accuracy", 0.1, (0.02, 0.18), 0.01, "McNemar, exact")
    runs = (
        Compared("one", {"accuracy": 0.8}, {"accuracy": [0.7, 0.9]}, 1234567, 75.0, 10, "Lora", 1e-3),
        Compared("two", {"accuracy": 0.9}, {"accuracy": [0.8, 0.95]}, None, 8.0, 10, "Full", 1e-5, (apart,)),
    )
    found = cells(of(Comparison("text-classification", "test", 100, ("accuracy",), runs)))
    for told in ("80.0%", "90.0% ✓", "80.0% to 95.0%", "1,234,567", "1 min 15 s", "1e-05", "–"):
        assert told in found, told
    assert any("two against one" in told and "p = 0.01" in told and "better" in told for told in found)


def test_rows_that_chose_the_step_are_said_to_have_chosen_it(tmp_path: Path) -> None:
    told = "also chose the step that was kept, step 50"
    assert told in tables({**LABELS, "chose_step": 50}, Run(tmp_path), tmp_path)
    assert told in tables({**CHAT, "chose_step": 50}, Run(tmp_path), tmp_path)
    assert "chose the step" not in tables(LABELS, Run(tmp_path), tmp_path)
