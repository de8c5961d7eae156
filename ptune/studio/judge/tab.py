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
from ptune.studio.command_shown import command_line, shows
from ptune.studio.heart import heart
from ptune.studio.jobs.finished_runs import finished_runs
from ptune.studio.jobs.log import last_error
from ptune.studio.jobs.queue import Job
from ptune.studio.judge.blind import Blind
from ptune.studio.judge.compared import comparison
from ptune.studio.judge.confusion_box import ConfusionBox
from ptune.studio.judge.evaluated import tables
from ptune.studio.judge.try_it import TryIt
from ptune.studio.run.none_finished import none_finished
from ptune.studio.sheet import error, note, opens
from ptune.studio.ship.shipped import has_gguf
from ptune.studio.studio import QUIET, Studio

AS_THE_RECIPE, ANSWERS = "as its recipe says", ("20", "50", "100", "200")


class Judge:
    """Renders the tab."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        with gr.Tab("Judge", id="judge") as self.tab:
            self._render_run()
            TryIt(studio, self.run)
            self._found = gr.HTML(elem_id="judge-figures")
            self._confusion = ConfusionBox(studio, self.run)
            self._blind = Blind(studio, self.run)
            with gr.Accordion("Compare runs", open=False, elem_id="judge-compare"):
                self._render_comparison()
            with gr.Accordion("Report", open=False, elem_id="judge-report"):
                self._report_frame = gr.HTML()
            self._connect()  # inside: what stands between tabs would count as one

    def _render_run(self) -> None:
        with gr.Row():
            self.run = gr.Dropdown([], label="Run", elem_id="judge-run", interactive=True, scale=3)
            self._answers = gr.Dropdown(
                [AS_THE_RECIPE, *ANSWERS], value=AS_THE_RECIPE, label="Answers to vote on",
                visible=False, elem_id="judge-answers", interactive=True, scale=1,
            )  # fmt: skip
        with gr.Row(elem_classes="doing"):
            self._evaluate = gr.Button("Evaluate", variant="primary", size="sm", elem_id="judge-evaluate")
            self._stop = gr.Button("Stop", size="sm", elem_id="judge-stop", visible=False)
            self.export = gr.Button("Export it", size="sm", elem_id="judge-export", visible=False)
        self._command = command_line()
        self._state = gr.HTML(elem_id="judge-state")

    def _render_comparison(self) -> None:
        self._others = gr.Dropdown(
            [], multiselect=True, label="Runs, the first is what the others are compared with", elem_id="judge-runs",
            interactive=True,
        )  # fmt: skip
        with gr.Row(elem_classes="doing"):
            compare = gr.Button("Compare", size="sm", elem_id="judge-do-compare")
        command, compared = command_line(), gr.HTML(elem_id="judge-compared")
        compare.click(self._compare, self._others, [compared, command], **QUIET)

    def _connect(self) -> None:
        studio, known = self._studio, gr.State(None)
        shown = [
            self.run, self._others, self._answers, self._evaluate, self._stop, self.export, self._state,
            self._found, self._report_frame, self._command, known,
        ]  # fmt: skip

        def look(chosen: str | None, answers: str, before: tuple[Any, ...] | None) -> Any:
            """Reads the files again, and updates what has changed of the page."""
            names = tuple(finished_runs(studio.workspace))
            run = chosen if chosen in names else next(iter(names), None)
            job = None if run is None else studio.jobs.newest("evaluate", run)
            said = none_finished(studio.jobs) if run is None else self._said(job)
            now = (names, run, self._stamp(run), job, said)
            if now == before:
                return gr.skip()
            return {**self._changes(now, before, answers), known: now}

        looked = ([self.run, self._answers, known], shown)
        gr.on([heart().tick, self.run.input], look, *looked, **QUIET)
        asked = [self.run, self._answers]
        self._answers.change(self._shown_command, asked, self._command, **QUIET)
        self._evaluate.click(self._begin, asked, self._state, **QUIET).then(look, *looked, **QUIET)
        self._stop.click(self._end, self.run, self._state, **QUIET)
        for shows_anew in (self._blind.again, self._confusion.again):
            # Other answers to vote on, other rows. Of a gr.State that an event without a queue sets no change is told.
            self._found.change(*shows_anew, **QUIET)

    @property
    def taken(self) -> list[Any]:
        """What changes at once where another tab leads here with a run."""
        return [self.run, self._command, self._state, self._found]

    def take(self, run: Any) -> list[Any]:
        """Updates of `taken`: the run, and nothing that was said of another. run: an update of its menu."""
        return [run, shows(()), "", ""]

    def _changes(self, now: tuple[Any, ...], before: tuple[Any, ...] | None, answers: str) -> dict[Any, Any]:
        """What is to be updated of the page. now, before: names, run, time of its evaluation, job and what it said last."""
        names, run, _, job, _ = now
        busy = job is not None and job.state in ("waiting", "running")
        update: dict[Any, Any] = {
            self._evaluate: gr.update(interactive=run is not None and not busy),
            self._stop: gr.update(visible=busy),
            self._state: self._told(run, job),
        }
        if before is None or now[:2] != before[:2]:
            update[self.run] = gr.update(choices=list(names), value=run)
            update[self._others] = gr.update(choices=list(names))
            update[self._answers] = gr.update(visible=self._chats(run))
            update[self._command] = self._shown_command(run, answers)
        if before is None or now[:3] != before[:3]:
            # The same figures may be of other answers.
            of = f'<i hidden data-of="{escape(str(now[1:3]))}"></i>'
            update |= {self._found: self._figures(run) + of, self._report_frame: self._report(run)}
            update[self.export] = gr.update(visible=now[2] is not None)
        return update

    def _chats(self, run: str | None) -> bool:
        """Whether a run is of a chat model, whose answers are voted on."""
        try:
            return run is not None and has_gguf(self._studio.workspace, run)
        except PtuneError:
            return False

    def _stamp(self, run: str | None) -> float | None:
        """Changes when there is a new evaluation."""
        if run is None:
            return None
        with contextlib.suppress(OSError, PtuneError):
            return (self._studio.workspace.run(run) / "evaluation.json").stat().st_mtime
        return None

    def _said(self, job: Job | None) -> str:
        """The last line of a job that runs."""
        if job is None or job.state != "running":
            return ""
        lines = [line.strip() for line in self._studio.jobs.log(job.id).splitlines() if line.strip()]
        return lines[-1] if lines else ""

    def _words(self, run: str, answers: str) -> tuple[str, ...]:
        workspace = self._studio.workspace
        asked = ("--answers", answers) if answers in ANSWERS else ()
        return ("ptune", "evaluate", workspace.shown(workspace.run(run)), *asked)

    def _shown_command(self, run: str | None, answers: str) -> Any:
        return shows(() if run is None else self._words(run, answers))

    def _begin(self, run: str | None, answers: str) -> str:
        if run is None:
            return error(none_finished(self._studio.jobs))
        try:
            self._studio.jobs.add("evaluate", run, self._words(run, answers))
        except PtuneError as problem:
            return error(str(problem))
        return note("Evaluating …")

    def _end(self, run: str | None) -> str:
        job = None if run is None else self._studio.jobs.newest("evaluate", run)
        if job is not None:
            self._studio.jobs.stop(job.id)
        return note("Stopping …")

    def _told(self, run: str | None, job: Job | None) -> str:
        if run is None:
            return note(none_finished(self._studio.jobs))
        if job is None or job.state == "done":
            evaluated = (self._studio.workspace.run(run) / "evaluation.json").is_file()
            return "" if evaluated else note("Not evaluated yet: Evaluate measures it on its held-out data.")
        log = self._studio.jobs.log(job.id)
        if job.state == "waiting":
            return note("Waiting for the job before it.")
        if job.state == "running":
            return note(f"Evaluating: {self._said(job) or 'reading the run'}")
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
            return tables(read_json(opened.evaluation_path), opened, self._studio.workspace.folder)
        except PtuneError as problem:
            return error(str(problem))
        except (KeyError, ValueError, TypeError):
            return error(f"{opened.evaluation_path} is of another version: evaluate the run again")

    def _report(self, run: str | None) -> str:
        if run is None or not (self._studio.workspace.run(run) / "report.html").is_file():
            return note("There is a report after the evaluation.")
        address = f"studio/report/{quote(run)}"
        return (
            f"<p>{opens(address, 'Open the report in a new tab')}</p>"
            f'<iframe class="report" sandbox src="{address}" title="Report of {escape(run)}"></iframe>'
        )

    def _compare(self, names: list[str] | None) -> tuple[str, Any]:
        workspace = self._studio.workspace
        try:
            folders = [workspace.run(name) for name in names or []]
            shown = [workspace.shown(folder) for folder in folders]
            return comparison(folders), shows(("ptune", "compare", *shown))
        except PtuneError as problem:
            return error(str(problem)), shows(())
