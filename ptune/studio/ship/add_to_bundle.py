"""A run's adapter beside others in a bundle, in the tab Ship: proved against torch, on the same base."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ptune.errors import PtuneError, UsageError
from ptune.studio.command_shown import command_line, shows
from ptune.studio.heart import Look
from ptune.studio.jobs.log import last_error
from ptune.studio.jobs.queue import Job
from ptune.studio.sheet import error, note
from ptune.studio.ship.shipped import add_command
from ptune.studio.studio import QUIET, Studio


class AddToBundle:
    """Renders the accordion. run: the menu of the tab's run."""

    def __init__(self, studio: Studio, run: gr.Dropdown) -> None:
        self._studio = studio
        with gr.Accordion("Add to a bundle of the same base, proved", open=False, elem_id="ship-beside"):
            with gr.Row():
                bundle = gr.Dropdown([], label="Bundle", elem_id="beside-bundle", interactive=True)
                name = gr.Textbox(label="Name", info="empty: the run's", elem_id="beside-name")
            with gr.Row(elem_classes="doing"):
                add = gr.Button("Add and prove", elem_id="beside-do", size="sm")
            command, told = command_line(), gr.HTML(elem_id="beside-told")
        known, asked = gr.State(None), [run, bundle, name]

        def look(run: str | None, chosen: str | None, before: tuple[Any, ...] | None) -> Any:
            """What is the same is left alone: somebody may be choosing, or reading an error."""
            names = tuple(one for one in studio.workspace.bundle_names() if one != run)
            job = None if run is None else studio.jobs.newest("add", run)
            now = (names, run, job)
            if now == before:
                return gr.skip()
            kept = chosen if chosen in names else next(iter(names), None)
            return gr.update(choices=list(names), value=kept), self._told(job), now

        self.look = Look(look, [run, bundle, known], [bundle, told, known])
        gr.on([one.change for one in asked], self._command, asked, command, **QUIET)
        add.click(self._add, asked, told, **QUIET)

    def _command(self, run: str | None, bundle: str | None, name: str | None) -> Any:
        try:
            words = add_command(self._studio.workspace, bundle, run, name or "") if run and bundle else ()
        except PtuneError:
            words = ()
        return shows(words)

    def _add(self, run: str | None, bundle: str | None, name: str | None) -> str:
        try:
            if not run or not bundle:
                raise UsageError("there is no other bundle here: export a run of the same base first")
            self._studio.jobs.add("add", run, add_command(self._studio.workspace, bundle, run, name or ""))
        except PtuneError as problem:
            return error(str(problem))
        return note("Adding, after the jobs before it …")

    def _told(self, job: Job | None) -> str:
        if job is None or job.state == "stopped":
            return ""
        log = self._studio.jobs.log(job.id)
        if job.state == "failed":
            return note(last_error(log), "bad")
        said = [line for line in log.splitlines() if line.startswith("added ")]
        return note(said[-1], "good") if said else note(f"Adding: {job.state}")
