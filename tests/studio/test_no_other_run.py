"""What a tab says is of the run that is chosen: no command, server or error of another one, or of a state that is over."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ptune.config.classification import TextClassification
from ptune.config.recipe import Recipe
from ptune.formats.bundle import BaseIdentity
from ptune.formats.run import RunRecord
from ptune.formats.whole_write import write_text

if TYPE_CHECKING:
    from ptune.studio.studio import Studio

gr = pytest.importorskip("gradio")


def _run(folder: Path, name: str, status: Any = "finished", steps: int = 0) -> None:
    own = folder / "runs" / name
    own.mkdir(parents=True)
    Recipe(task=TextClassification()).save(own / "recipe.yaml")
    base = BaseIdentity(source="tiny", hash="0" * 64)
    record = RunRecord(created="2024", base=base, status=status, planned_steps=200)
    write_text(own / "run.json", record.model_dump_json())
    write_text(own / "metrics.jsonl", "".join(f'{{"step": {at + 1}, "loss": 1}}\n' for at in range(steps)))


@pytest.fixture
def studio(tmp_path: Path) -> Studio:
    from ptune.studio.jobs.queue import Jobs
    from ptune.studio.studio import Studio
    from ptune.studio.workspace import Workspace

    workspace = Workspace(tmp_path)
    for name in ("first", "second"):
        _run(tmp_path, name)
    (workspace.bundle("first")).mkdir()
    (workspace.bundle("first") / "manifest.json").write_text("{}")
    with gr.Blocks() as page:
        return Studio(workspace, Jobs(workspace), page, gr.Tabs())


def test_the_panel_serve_follows_the_run(studio: Studio) -> None:
    from ptune.studio.ship.tab import Ship

    with studio.page:
        server = Ship(studio).server
    nothing: tuple[Any, ...] = ([], "", None)
    menu, start, told, known = server.look.read("first", None, nothing)
    assert (menu["value"], start["interactive"]) == ("first", True)
    menu, start, told, known = server.look.read("second", "first", known)
    assert (menu["value"], start["interactive"]) == (None, False)
    assert "second has no bundle yet" in told
    menu, start, told, known = server.look.read("second", "first", known)
    assert start["interactive"], "another's bundle can be chosen by hand"
    assert "value" not in menu or menu["value"] == "first"


def test_another_run_brings_its_own_command(studio: Studio) -> None:
    from ptune.studio.ship.tab import BUNDLE, Ship

    with studio.page:
        ship = Ship(studio)
    first, so_far = ship._looked("first", BUNDLE)
    now, so_far = ship._looked("second", BUNDLE)
    changes = ship._changes(now, first, so_far)
    assert changes[ship.run]["value"] == "second"
    command = changes[ship._command]["value"]
    assert command.startswith("ptune export runs/second --out bundles/second ")
    assert [one["value"] for one in (changes[ship._form], changes[ship._cache])] == [BUNDLE, False]
    assert (changes[ship._merge], changes[ship._anyway]) == (False, False), (
        "nor what was ticked for the other"
    )


def test_a_run_that_another_tab_leads_to_takes_all_of_the_other_one_away(studio: Studio) -> None:
    from ptune.studio.judge.tab import Judge
    from ptune.studio.ship.tab import Ship

    with studio.page:
        tabs: list[Any] = [Judge(studio), Ship(studio)]
    for tab in tabs:
        run, *others = tab.take("the menu")
        assert run == "the menu"
        assert len(tab.taken) == 1 + len(others)
        assert not any(one if isinstance(one, str) else one.get("value") for one in others)


def test_where_the_run_that_trains_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ptune.studio.jobs.queue import Job, Jobs
    from ptune.studio.run.none_finished import none_finished
    from ptune.studio.workspace import Workspace

    jobs = Jobs(Workspace(tmp_path))
    assert none_finished(jobs) == "No run has finished yet: train one in the tab Run."
    _run(tmp_path, "mine", "running", steps=52)
    job = Job("00001", "train", "mine", ("ptune",), "running", 1.0)
    monkeypatch.setattr(jobs, "all", lambda: [job])
    assert none_finished(jobs).startswith("mine is training, step 52 of 200: ")


def test_the_page_opens_on_the_run_that_trains(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    from ptune.studio.app import opens_on
    from ptune.studio.jobs.queue import Job

    assert opens_on(studio) == gr.skip()
    job = Job("00001", "train", "mine", ("ptune",), "running", 1.0)
    monkeypatch.setattr(studio.jobs, "all", lambda: [job])
    assert opens_on(studio)["selected"] == "run"
    monkeypatch.setattr(studio.jobs, "all", lambda: [replace(job, kind="export")])
    assert opens_on(studio) == gr.skip()


def test_an_error_goes_when_the_run_is_in_another_state(studio: Studio) -> None:
    from ptune.studio.run.tab import Runs

    with studio.page:
        runs = Runs(studio)
    _run(studio.workspace.folder, "mine", "interrupted", steps=2)
    seen, *_ = runs._again(["mine"], None)
    at = 1 + runs._shown.index(runs._told)
    assert runs._again(["mine"], seen)[at] == gr.skip(), "while it is true it stays"
    record = studio.workspace.run("mine") / "run.json"
    write_text(record, record.read_text().replace("interrupted", "finished"))
    assert runs._again(["mine"], seen)[at] == ""
