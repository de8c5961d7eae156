"""The sweep's runs are recipes on the prepared files, and its table says which of them collapsed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.sweep import SETS, Setting, collapsed, recipe_of, settings, summary, table, unseen
from benchmarks.sweep_sets import Places, prepared
from ptune.config.recipe import Recipe


def line(value: float, seed: int, lr: float = 1e-3, **more: Any) -> dict[str, Any]:
    baselines = {"commonest label": 0.71, "TF-IDF + logistic regression": 0.95}
    own = {
        "set": "mails",
        "seed": seed,
        "lr": lr,
        "warmup": None,
        "spike_protection": "zclip",
        "seconds": 60.0,
        "rollbacks": [],
    }
    return {**own, "figure": "accuracy", "value": value, "baselines": baselines, **more}


@pytest.mark.parametrize("name", SETS)
def test_every_set_is_a_recipe_that_can_be_read_back(name: str, tmp_path: Path) -> None:
    recipe = recipe_of(Setting(name, 3, 2e-4, 0.1, head_lr=5e-3), {"files": ["a.jsonl"], "test": ["b.jsonl"]})
    recipe.save(tmp_path / "recipe.yaml")
    assert Recipe.load(tmp_path / "recipe.yaml") == recipe
    assert (recipe.train.seed, recipe.train.lr, recipe.train.head_lr) == (3, 2e-4, 5e-3)
    assert recipe.train.warmup == 0.1
    assert (recipe.data.files, recipe.data.test) == ((Path("a.jsonl"),), (Path("b.jsonl"),))


def test_seed_by_seed_so_that_a_stopped_sweep_has_something_of_everything() -> None:
    wanted = settings(["mails", "words"], 2, [1e-3], [None], "zclip")
    assert [(one.seed, one.set) for one in wanted] == [(0, "mails"), (0, "words"), (1, "mails"), (1, "words")]
    assert len({one.name for one in settings(list(SETS), 5, [], [None, 0.1], "zclip")}) == 130


def test_a_collapse_is_to_be_no_better_than_the_commonest_label_or_the_base() -> None:
    assert collapsed(line(0.71, 0))
    assert not collapsed(line(0.72, 0))
    assert collapsed(line(0.04, 0, set="words", baselines={"commonest label": 0.0}))
    assert collapsed(line(4.6, 0, set="talk", figure="loss", baselines={"base": 4.5}))


def test_a_rate_of_ten_times_the_recipes_may_collapse_but_not_unseen() -> None:
    back = [{"step": 40, "to_step": 0, "lr": 3e-3, "told": "worse"}]
    assert unseen(line(0.71, 0, 1e-3, rollbacks=back))
    assert unseen(line(0.71, 0, 1e-2))
    assert not unseen(line(0.71, 0, 1e-2, rollbacks=back))
    assert not unseen(line(0.93, 0, 1e-2))


def test_a_run_that_went_back_and_ended_well_is_shown_but_has_not_collapsed() -> None:
    back = [{"step": 40, "to_step": 20, "lr": 3e-4, "told": "worse"}]
    (row,) = summary([line(0.94, 0), line(0.92, 1, rollbacks=back * 2)])
    assert (row["rolled_back"], row["collapsed"]) == (1, 0)
    assert "| 92.0% to 94.0% | 1 | none |" in table([row])


def test_the_table_has_medians_and_counts() -> None:
    runs = [line(0.94, 0), line(0.71, 1), line(0.95, 2), line(0.93, 0, 5e-4), line(0.95, 1, 5e-4)]
    rows = summary(runs)
    assert [(row["lr"], row["seeds"], row["median"], row["collapsed"]) for row in rows] == [
        (5e-4, 2, pytest.approx(0.94), 0),
        (1e-3, 3, 0.94, 1),
    ]
    shown = table(rows)
    assert "| 0.001 | recipe | 3 | **94.0%** | 71.0% to 95.0% | none | 1 |" in shown
    assert "commonest label 71.0%, TF-IDF + logistic regression 95.0%" in shown


def test_mails_are_read_without_tags_and_cut_into_disjoint_splits(tmp_path: Path) -> None:
    for group, count in (("easy-ham-1", 30), ("spam-1", 10)):
        folder = tmp_path / "package" / "data" / group
        folder.mkdir(parents=True)
        for number in range(count):
            mail = f"Subject: number {number}\nContent-Type: text/html\n\n<p>Dear reader of {group},</p> buy\x00 {number}"
            (folder / f"{number}.json").write_text(json.dumps({"text": mail}))
    files = prepared("mails", Places(spam_assassin=tmp_path / "package"), tmp_path)
    assert files is not None
    splits = {
        split: [json.loads(text) for text in Path(paths[0]).read_text().splitlines()]
        for split, paths in files.items()
    }
    assert sum(map(len, splits.values())) == 40
    assert {row["label"] for row in splits["files"]} == {"ham", "spam"}
    assert {"text": "number 3 Dear reader of spam-1, buy 3", "label": "spam"} in [
        *splits["files"],
        *splits["test"],
    ]
    assert not {row["text"] for row in splits["files"]} & {row["text"] for row in splits["test"]}
    assert prepared("messages", Places(), tmp_path) is None
