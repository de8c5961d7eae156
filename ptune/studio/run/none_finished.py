"""What the tabs Judge and Ship say while no run has finished: where the one that trains stands."""

from __future__ import annotations

from ptune.studio.jobs.queue import Jobs
from ptune.studio.run.courses import course

NONE_YET = "No run has finished yet: train one in the tab Run."


def none_finished(jobs: Jobs) -> str:
    """E.g. "mine is training, step 52 of 200: …"."""
    every = jobs.all()
    running = next((one for one in every if one.kind == "train" and one.state == "running"), None)
    if running is None:
        return NONE_YET
    now = course(jobs.workspace, every, running.name)
    of = f" of {now.planned:,}" if now.planned else ""
    at = "before its first step" if now.preparing else f"step {now.step:,}{of}"
    return f"{running.name} is training, {at}: when that has ended, it is here."
