"""A recipe's training is put into the queue once; afterwards a sentence says what can be done instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from ptune.errors import UsageError
from ptune.formats.bundle import BaseIdentity
from ptune.formats.run import RunRecord
from ptune.formats.whole_write import write_text
from ptune.studio.jobs.queue import Jobs
from ptune.studio.run.start import start
from ptune.studio.workspace import Workspace


@pytest.mark.parametrize(
    ("status", "told"),
    [
        ("finished", r"mine has finished.*tab Judge, or call the recipe mine-2"),
        ("stopped early", "mine has finished"),
        ("interrupted", "mine was begun and has not finished: resume it on the tab Run"),
        ("running", "mine was begun and has not finished: resume it on the tab Run"),
    ],
)
def test_a_run_that_is_there_is_not_trained_again(tmp_path: Path, status: str, told: str) -> None:
    jobs = Jobs(Workspace(tmp_path))
    folder = jobs.workspace.run("mine")
    folder.mkdir()
    record = RunRecord(
        created="2024",
        base=BaseIdentity(source="tiny", hash="0" * 64),
        status=status,  # type: ignore[arg-type]
    )
    write_text(folder / "run.json", record.model_dump_json())
    with pytest.raises(UsageError, match=told):
        start(jobs, "mine")
    assert jobs.all() == []
