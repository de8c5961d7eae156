"""The tab Judge: what a run has learnt, in figures, by blind votes on its answers, and beside other runs."""

from __future__ import annotations

import contextlib
from html import escape
from typing import Any
from urllib.parse import quote

import gradio as gr

from ptune.errors import PtuneError
from ptune.formats.run import Run
from ptune.formats.whole_write import read_json
from ptune.studio.compared import comparison
from ptune.studio.evaluated import tables
from ptune.studio.jobs import Job
from ptune.studio.proof import last_error
from ptune.studio.sheet import error, note
from ptune.studio.studio import LOOK_AGAIN_S, QUIET, Studio
from ptune.studio.tabs.blind import Blind
from ptune.studio.tabs.command import command_line, shows

NONE_YET = "No run has finished yet: train one in the tab Run."


class Judge:
    """Renders the tab."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        with gr.Tab("Judge", id="judge") as self.tab:
            with gr.Row(elem_classes="pick"):
                self.run = gr.Dropdown([], label="Run", elem_id="judge-run", interactive=True, scale=3)
                self.evaluate = gr.Button("Evaluate", variant="primary", elem_id="judge-evaluate", scale=1)
                self.stop = gr.Button("Stop", elem_id="judge-stop", scale=1, visible=False)
            command = command_line()
            state = gr.HTML(elem_id="judge-state")
            found = gr.HTML(elem_id="judge-figures")
            self.blind = Blind(studio, self.run)
            with gr.Accordion("Compare runs", open=False, elem_id="judge-compare"):
                others = gr.Dropdown(
                    [],
                    multiselect=True,
                    label="Runs, the first is what the others are compared with",
                    elem_id="judge-runs",
                    interactive=True,
                )
                compare = gr.Button("Compare", elem_id="judge-do-compare")
                compare_command = command_line()
                compared = gr.HTML(elem_id="judge-compared")
            with gr.Accordion("Report", open=False, elem_id="judge-report"):
                report = gr.HTML()
        known, measured = gr.State(None), gr.State(None)
        again = gr.Timer(LOOK_AGAIN_S)
        shown = [self.run, others, self.evaluate, self.stop, state, found, report, command, known, measured]

        def look(chosen: str | None, before: tuple[Any, ...] | None) -> Any:
            """Reads the files again, and updates the page only if they have changed."""
            names = studio.workspace.run_names()
            run = chosen if chosen in names else next(iter(names), None)
            job = None if run is None else studio.jobs.newest("evaluate", run)
            now = (tuple(names), run, job, self._stamp(run))
            if now == before:
                return gr.skip()
            busy = job is not None and job.state in ("waiting", "running")
            return {
                self.run: gr.update(choices=names, value=run),
                others: gr.update(choices=names),
                self.evaluate: gr.update(interactive=run is not None and not busy),
                self.stop: gr.update(visible=busy),
                state: self._state(run, job),
                found: self._figures(run),
                report: self._report(run),
                command: shows(self._command(run) if run else ()),
                known: now,
                measured: str(now[-1]),
            }

        gr.on(
            [studio.page.load, again.tick, self.tab.select, self.run.input],
            look,
            [self.run, known],
            shown,
            **QUIET,
        )
        self.evaluate.click(self._evaluate, self.run, state, **QUIET).then(
            look, [self.run, known], shown, **QUIET
        )
        self.stop.click(self._stop, self.run, state, **QUIET)
        measured.change(*self.blind.again, **QUIET)  # other answers to vote on
        compare.click(self._compare, others, [compared, compare_command], **QUIET)

    def _stamp(self, run: str | None) -> float | None:
        """Changes when there is a new evaluation."""
        if run is None:
            return None
        with contextlib.suppress(OSError, PtuneError):
            return (self._studio.workspace.run(run) / "evaluation.json").stat().st_mtime
        return None

    def _command(self, run: str) -> tuple[str, ...]:
        workspace = self._studio.workspace
        return ("ptune", "evaluate", workspace.shown(workspace.run(run)))

    def _evaluate(self, run: str | None) -> str:
        if run is None:
            return error(NONE_YET)
        try:
            self._studio.jobs.add("evaluate", run, self._command(run))
        except PtuneError as problem:
            return error(str(problem))
        return note("Evaluating …")

    def _stop(self, run: str | None) -> str:
        job = None if run is None else self._studio.jobs.newest("evaluate", run)
        if job is not None:
            self._studio.jobs.stop(job.id)
        return note("Stopping …")

    def _state(self, run: str | None, job: Job | None) -> str:
        if run is None:
            return note(NONE_YET)
        if job is None or job.state == "done":
            evaluated = (self._studio.workspace.run(run) / "evaluation.json").is_file()
            return "" if evaluated else note("Not evaluated yet: Evaluate measures it on its held-out data.")
        log = self._studio.jobs.log(job.id)
        if job.state == "waiting":
            return note("Waiting for the job before it.")
        if job.state == "running":
            lines = [line for line in log.splitlines() if line.strip()]
            return note(f"Evaluating: {lines[-1] if lines else 'reading the run'}")
        if job.state == "stopped":
            return note("Stopped before it was measured.")
        return note(last_error(log), "bad")

    def _figures(self, run: str | None) -> str:
        if run is None:
            return ""
        opened = Run(self._studio.workspace.run(run))
        if not opened.evaluation_path.is_file():
            return ""
        try:
            return tables(read_json(opened.evaluation_path), opened.folder)
        except PtuneError as problem:
            return error(str(problem))
        except (KeyError, ValueError, TypeError):
            return error(f"{opened.evaluation_path} is of another version: evaluate the run again")

    def _report(self, run: str | None) -> str:
        if run is None or not (self._studio.workspace.run(run) / "report.html").is_file():
            return note("There is a report after the evaluation.")
        address = f"studio/report/{quote(run)}"
        return (
            f'<p><a href="{address}" target="_blank" rel="noopener">Open the report by itself</a></p>'
            f'<iframe class="report" sandbox src="{address}" title="Report of {escape(run)}" loading="lazy"></iframe>'
        )

    def _compare(self, names: list[str] | None) -> tuple[str, Any]:
        workspace = self._studio.workspace
        try:
            folders = [workspace.run(name) for name in names or []]
            shown = [workspace.shown(folder) for folder in folders]
            return comparison(folders), shows(("ptune", "compare", *shown))
        except PtuneError as problem:
            return error(str(problem)), shows(())
