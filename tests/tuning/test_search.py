"""Searches over a training without a model: what they find, and what becomes of one that is stopped, killed or shared."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from support import searching
from support.fake_chat_model import wait_until
from support.fake_trainer import held
from support.searching import LR, search_of, searched

from ptune.config.recipe import Recipe
from ptune.errors import PtuneError, RecipeError
from ptune.methods.lora import Lora
from ptune.tuning import search as search_of_trials
from ptune.tuning.study import open_study

SEARCHING = searching.__file__


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    search = search_of(tmp_path_factory.mktemp("search"), LR, "method.r=4|8", trials=11)
    return search, searched(search)


def test_it_finds_the_best_rate(found):
    _, outcome = found
    assert len(outcome.tried) == 11
    best = outcome.best
    assert abs(math.log10(best.params["train.lr"]) + 3) < 0.5
    assert best.value == min(one.value for one in outcome.tried if one.value is not None)
    assert best.value == pytest.approx((math.log10(best.params["train.lr"]) + 3) ** 2 + 1 / 4)


def test_the_rate_matters_and_the_rank_does_not(found):
    _, outcome = found
    assert outcome.evaluator == "fANOVA"
    assert outcome.importances["train.lr"] > 0.8
    assert sum(outcome.importances.values()) == pytest.approx(1)


def test_the_best_recipe_is_the_asked_one_but_for_the_space(found):
    search, outcome = found
    best = Recipe.load(search.folder / "best.yaml")
    assert best.train.lr == outcome.best.params["train.lr"]
    assert isinstance(best.method, Lora)
    assert best.method.r == outcome.best.params["method.r"]
    assert best.data.test == search.recipe.data.test
    same = {"train": {"lr"}, "method": {"r"}}
    assert best.model_dump(exclude=same) == search.recipe.model_dump(exclude=same)


def test_what_is_written_down(found):
    search, outcome = found
    document = json.loads((search.folder / "tune.json").read_text())
    assert [trial["number"] for trial in document["trials"]] == list(range(11))
    assert document["best"]["trial"] == outcome.best.number
    assert document["space"] == {"train.lr": "log:1e-05..0.1", "method.r": "4|8"}
    page = (search.folder / "report.html").read_text()
    assert not re.search(r"<script|https?://|@import", page)
    assert page.count("<svg") == 4  # history, all fields, two slices
    assert page.count('<polyline class="kept"') == 1
    assert page.count('<circle class="kept"') == 3
    for one in outcome.tried:
        assert f"trial {one.number}, {one.state}" in page


def test_checkpoints_of_ended_trials_are_gone(found):
    search, _ = found
    assert not list(search.folder.glob("trial-*/checkpoints"))
    assert (search.trial_run(0) / "run.json").is_file()


def test_the_same_seed_asks_the_same(found, tmp_path):
    _, outcome = found
    again = searched(search_of(tmp_path, LR, "method.r=4|8", trials=11))
    assert [one.params for one in again.tried] == [one.params for one in outcome.tried]


def test_another_seed_asks_otherwise(found, tmp_path):
    _, outcome = found
    other = searched(search_of(tmp_path, LR, "method.r=4|8", trials=1, seed=1))
    first = next(one for one in outcome.tried if one.number == 0)
    assert other.tried[0].params != first.params


def test_going_on_repeats_nothing_and_asks_what_it_would_have_asked(found, tmp_path):
    _, outcome = found
    half = searched(search_of(tmp_path, LR, "method.r=4|8", trials=5))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("trial-*/metrics.jsonl")}
    whole = searched(search_of(tmp_path, LR, "method.r=4|8", trials=10))
    assert len(half.tried) == len(before) == 5
    assert all(path.stat().st_mtime_ns == at for path, at in before.items())
    ten = sorted((one for one in outcome.tried if one.number < 10), key=lambda one: one.number)
    assert [one.params for one in sorted(whole.tried, key=lambda one: one.number)] == [
        one.params for one in ten
    ]


def test_a_study_of_something_else_is_refused(tmp_path):
    searched(search_of(tmp_path, trials=1))
    with pytest.raises(RecipeError, match="another space"):
        open_study(search_of(tmp_path, "train.lr=log:1e-4..1e-1"))
    with pytest.raises(RecipeError, match="another metric"):
        open_study(search_of(tmp_path, metric="validation_accuracy"))
    with pytest.raises(RecipeError, match="another recipe"):
        open_study(search_of(tmp_path, pause_s=0.1))


def test_accuracy_is_maximised(tmp_path):
    outcome = searched(search_of(tmp_path, metric="validation_accuracy", trials=4))
    values = [one.value for one in outcome.tried if one.value is not None]
    assert len(values) == len(outcome.tried)
    assert values == sorted(values, reverse=True)
    assert outcome.best is not None
    assert outcome.best.value == max(values)


def test_a_training_that_diverges_is_told_and_kept_away_from(tmp_path):
    outcome = searched(search_of(tmp_path, "train.lr=0.001|0.9", trials=4))
    wrong = [one for one in outcome.tried if one.state == "went wrong"]
    assert wrong
    assert all("diverged" in one.why for one in wrong)
    assert outcome.best is not None
    assert outcome.best.params == {"train.lr": 0.001}


def test_values_that_do_not_go_together_lose_one_trial_each(tmp_path):
    """PiSSA takes no weight decay: each value goes with the recipe, and the pair ended the search, now and on every resume."""
    space = ("method.init=default|pissa", "train.weight_decay=0.0|0.1")
    outcome = searched(search_of(tmp_path, *space, trials=10))
    assert len(outcome.tried) == 10
    wrong = [one for one in outcome.tried if one.state == "went wrong"]
    assert wrong
    for one in outcome.tried:
        both = one.params == {"method.init": "pissa", "train.weight_decay": 0.1}
        assert (one.state == "went wrong") == both
    assert "weight_decay" in wrong[0].why
    assert not (tmp_path / f"trial-{wrong[0].number}.yaml").exists()
    assert outcome.best is not None


def test_one_crash_loses_one_trial(tmp_path):
    outcome = searched(search_of(tmp_path, "method.r=4|8|13", trials=6, seed=3))
    states = Counter(one.state for one in outcome.tried)
    assert states["finished"] >= 3
    crashed = [one for one in outcome.tried if one.state == "failed"]
    assert crashed
    assert all(one.params["method.r"] == 13 for one in crashed)
    assert sum("exit code -9" in one.why for one in crashed) == 1  # what crashed is not tried again


def test_where_nothing_runs_the_first_failure_is_the_answer(tmp_path):
    with pytest.raises(PtuneError, match=r"trial 0 failed: it ended with exit code -9") as caught:
        searched(replace(search_of(tmp_path), recipe=_deadly(tmp_path)))
    assert "trial-0.log" in str(caught.value)


def _deadly(folder: Path) -> Recipe:
    recipe = search_of(folder).recipe
    return recipe.model_copy(update={"method": recipe.method.model_copy(update={"r": 13})})


def test_the_same_point_is_not_trained_twice(tmp_path):
    outcome = searched(search_of(tmp_path, "method.r=4|8", trials=6))
    assert len(outcome.tried) == 6
    assert len(list(tmp_path.glob("trial-*/run.json"))) == 2
    assert {one.why.partition(" ")[0] for one in outcome.tried} == {"", "as"}


def test_ctrl_c_leaves_it_resumable(tmp_path):
    """The trial that was under way goes on where it was; what had ended stays."""
    command = [sys.executable, SEARCHING, str(tmp_path), "3"]
    held(tmp_path / "trial-1").touch()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    second = tmp_path / "trial-1" / "metrics.jsonl"
    wait_until(lambda: second.is_file() and second.read_text().count("validation_loss") == 1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert json.loads((tmp_path / "trial-1" / "run.json").read_text())["status"] == "interrupted"
    held(tmp_path / "trial-1").unlink()
    outcome = searched(search_of(tmp_path, trials=3))
    assert [one.state for one in outcome.tried] == ["finished"] * 3
    assert (tmp_path / "trial-1" / "resumed").is_file()
    assert (tmp_path / "trial-0" / "at-once").is_file()
    assert second.read_text().count("validation_loss") == 4


def test_a_killed_search_is_resumable(tmp_path):
    """Its training ends by itself; nobody else takes the trial while it lives."""
    command = [sys.executable, SEARCHING, str(tmp_path), "2"]
    gates = [held(tmp_path / f"trial-{number}") for number in (0, 1)]
    for gate in gates:
        gate.touch()
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    first, second = (tmp_path / f"trial-{number}" / "metrics.jsonl" for number in (0, 1))
    wait_until(lambda: first.is_file() and "validation" in first.read_text())
    process.kill()
    process.wait()

    def ends_beside_the_second() -> None:
        wait_until(second.is_file)
        gates[0].unlink()
        wait_until(lambda: lets_go(tmp_path / "trial-0.yaml"))
        gates[1].unlink()

    beside = threading.Thread(target=ends_beside_the_second)
    beside.start()
    outcome = searched(search_of(tmp_path, trials=2))
    beside.join()
    assert [one.state for one in outcome.tried] == ["finished"] * 2
    assert first.read_text().count("validation_loss") == 4


def lets_go(recipe: Path) -> bool:
    """Whether nobody trains by a trial's recipe any more."""
    if (lock := search_of_trials._locked(recipe)) is None:
        return False
    os.close(lock)
    return True


def test_a_trial_that_ends_elsewhere_meanwhile_is_not_taken_up(tmp_path, monkeypatch):
    """Between the list of those that run and the lock of one, another process tells its result and lets go of the lock."""
    search = search_of(tmp_path, trials=1)
    study = open_study(search)
    trial = study.ask()
    trial.set_user_attr("place", search_of_trials._place(search))
    own = search_of_trials._locked

    def ends_meanwhile(*claimed):
        lock = own(*claimed)
        study.tell(trial.number, 1.0)
        return lock

    monkeypatch.setattr(search_of_trials, "_locked", ends_meanwhile)
    with search_of_trials._claimed(study, search) as (claimed, _):
        assert claimed is None


@pytest.mark.parametrize("shared", [True, False], ids=["by URL", "one folder"])
def test_two_processes_share_a_study(tmp_path, shared):
    url = f"sqlite:///{tmp_path}/shared.db"
    folders = [tmp_path / "one", tmp_path / ("two" if shared else "one")]
    open_study(search_of(folders[0], storage=url))  # two that make the tables at once may collide
    gates = {held(folder / f"trial-{number}") for folder in folders for number in (0, 1)}
    for gate in gates:  # so that neither has trained all before the other begins
        gate.parent.mkdir(exist_ok=True)
        gate.touch()
    command = [sys.executable, SEARCHING]
    both = [
        subprocess.Popen([*command, str(folder), "6", url], stderr=subprocess.PIPE, text=True)
        for folder in folders
    ]
    wait_until(lambda: len([*tmp_path.glob("*/trial-[01]/metrics.jsonl")]) == 2)
    for gate in gates:
        gate.unlink()
    said = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    study = optuna.load_study(study_name="tiny-tune", storage=url)
    assert all(trial.state.is_finished() for trial in study.trials)
    assert (
        6 <= len(study.trials) <= (7 if shared else 6)
    )  # over two folders the count is looked at, not locked
    trained = [re.findall(r"trial (\d+): train", text) for text in said]
    assert all(trained), said
    assert sorted(map(int, trained[0] + trained[1])) == list(range(len(study.trials)))


def test_a_storage_that_is_none_is_one_sentence(tmp_path):
    for url in ("nonsense", "sqlite:////no/such/folder/study.db", "postgresql://nobody@127.0.0.1:1/x"):
        with pytest.raises(PtuneError, match="cannot open the study's storage"):
            open_study(search_of(tmp_path, storage=url))


def test_a_stop_between_trials(tmp_path):
    asked = threading.Event()
    search = search_of(tmp_path, trials=4)
    asked.set()
    assert searched(search, stop=asked.is_set).tried == ()
    assert not list(tmp_path.glob("trial-*")), os.listdir(tmp_path)


def test_it_can_be_watched_trial_by_trial(tmp_path):
    search = search_of(tmp_path / "watched")
    written = search.folder / "tune.json"

    def two_ended() -> bool:
        return written.exists() and len(json.loads(written.read_text())["trials"]) == 2

    assert len(searched(search, stop=two_ended).tried) == 2, "it was written when the second had ended"
    document = json.loads(written.read_text())
    assert [one["state"] for one in document["trials"]] == ["finished", "finished"]
    assert Recipe.load(search.folder / "best.yaml").train.lr == document["best"]["params"]["train.lr"]
