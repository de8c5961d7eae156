"""How long a recipe takes stands beside its presets: by an earlier run of the same work, or by steps that were timed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from ptune.formats.bundle import BaseIdentity
from ptune.formats.run import RunRecord
from ptune.studio.recipe import paces, shown
from ptune.studio.recipe.drafts import Draft
from ptune.studio.recipe.length import label
from ptune.studio.workspace import Workspace
from ptune.training.journal.pace import Length, Pace, document

CHAT = Draft("mine", ("faq.jsonl",), "chat")
TIMED = Pace(2.0, 10.0, "4 of its steps, timed")


def ran(workspace: Workspace, draft: Draft, step_s: float) -> None:
    """A run as `ptune train` leaves it, that was cut off: nothing tells how long its validations took."""
    folder = workspace.run(draft.name)
    folder.mkdir()
    draft.recipe().save(folder / "recipe.yaml")
    entries = [{"step": at, "loss": 1.0, "seconds": step_s} for at in range(1, 9)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    base = BaseIdentity(source="tiny", hash="0" * 64)
    (folder / "run.json").write_text(RunRecord(created="2024", base=base).model_dump_json())


def test_what_was_timed_is_remembered_for_all_presets_of_the_same_steps(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    recipe = CHAT.recipe()
    assert paces.known(workspace, recipe) is None
    paces.keep(workspace, recipe, document(Length(7, 4, 54), TIMED))
    for preset in ("quick", "best"):
        other: Any = replace(CHAT, preset=preset, name="another")
        assert paces.known(workspace, other.recipe()) == TIMED
    larger = replace(CHAT, changes={"train.batch_size": "64"})
    assert paces.known(workspace, larger.recipe()) is None


def test_a_real_run_counts_more_than_a_few_steps(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    paces.keep(workspace, CHAT.recipe(), document(Length(7, 4, 54), TIMED))
    ran(workspace, replace(CHAT, name="before", preset="quick"), 0.5)
    assert paces.known(workspace, CHAT.recipe()) == Pace(0.5, 0.0, "runs/before")


def test_a_damaged_file_is_as_none(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    paces.keep(workspace, CHAT.recipe(), {"step_s": "soon"})
    assert paces.known(workspace, CHAT.recipe()) is None


def test_minutes_stand_beside_a_preset() -> None:
    """68 steps of 2 s and 5 validations of 10 s; the best preset may stop early."""
    told = label("balanced", CHAT.preset_recipe(), 600, TIMED)
    assert told.endswith(
        "Here about 68 steps, 1 pass over 540 rows, about 3 min 06 s by 4 of its steps, timed"
    )
    best = label("best", replace(CHAT, preset="best").preset_recipe(), 600, TIMED)
    assert "up to 8 min 56 s by" in best
    html = shown.lasts(document(Length(7, 7, 54), replace(TIMED, by="runs/<b>")), beside=True)
    assert "About 1 min 24 s on this machine" in html
    assert "Another job ran meanwhile" in html
    assert "<b>" not in html
