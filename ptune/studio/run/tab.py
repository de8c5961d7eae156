"""The tab Run: the queue, and the course of runs while they train. All of it is read from files, again and again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from ptune.errors import PtuneError, UsageError
from ptune.formats.whole_write import read_json
from ptune.studio import commands
from ptune.studio.command_shown import command_line, shows
from ptune.studio.heart import LOOK, Look, heart, together
from ptune.studio.jobs.log import problem_in
from ptune.studio.jobs.queue import Job
from ptune.studio.run import courses, plots
from ptune.studio.run import shown as shown_runs
from ptune.studio.run.courses import Course
from ptune.studio.run.search_panel import Searches
from ptune.studio.run.start import start
from ptune.studio.studio import QUIET, Studio
from ptune_serve.ui.labels import problem, waiting

MOST_SHOWN = 6
LOG_CHARACTERS = 6000
_NONE = "No run yet: make a recipe and train it, or choose one of the recipes here."


class Runs:
    """Runs, waiting, running and done."""

    def __init__(self, studio: Studio) -> None:
        self._workspace, self._jobs = studio.workspace, studio.jobs
        self.tab = gr.Tab("Run", id="run")
        with self.tab:
            self._seen = gr.State(None)  # what the page shows, so that it is sent only what is new
            with gr.Row(elem_classes="panes"):
                with gr.Column(scale=1, min_width=260, elem_classes="pane"):
                    self._render_queue()
                with gr.Column(scale=3, min_width=300, elem_classes="pane"):
                    self._render_runs()
                    self._searches = Searches(studio, self._recipe)
        self.looks_at: list[Any] = []
        self.looked = [self.chosen, self._recipe, self._seen, *self._shown]
        with self.tab:
            self._connect(studio)  # inside: what stands between tabs would count as one

    def _render_queue(self) -> None:
        gr.HTML("<h2>Queue</h2>")
        self._queue = gr.HTML(elem_classes="jobs", elem_id="queue")
        self._recipe = gr.Dropdown([], label="A recipe to train", elem_id="recipe-to-train")
        with gr.Row(elem_classes="doing"):
            self._start = gr.Button("Train", size="sm", elem_id="start")

    def _render_runs(self) -> None:
        self.chosen = gr.Dropdown(
            [], label="Runs to show", info="The first one in figures, all of them in the charts", multiselect=True,
            max_choices=MOST_SHOWN, elem_id="runs",
        )  # fmt: skip
        self._facts = gr.HTML(waiting(_NONE), elem_classes="data", elem_id="facts")
        with gr.Row(elem_classes="doing"):
            self._stop = gr.Button("Stop", size="sm", interactive=False, elem_id="stop")
            self._resume = gr.Button("Resume", size="sm", interactive=False, elem_id="resume")
            self.judge = gr.Button(
                "Judge it", variant="primary", size="sm", visible=False, elem_id="judge-it"
            )
            self.ship = gr.Button("Export it", size="sm", visible=False, elem_id="export-it")
        self._told = gr.HTML(elem_id="run-told")
        self._charts = gr.HTML(elem_id="charts")
        self._samples = gr.HTML(elem_classes="data", elem_id="samples")
        self._command = command_line()
        with gr.Accordion("Log", open=False):
            self._log = gr.Textbox(
                show_label=False, label="Log", interactive=False, lines=10, max_lines=24, elem_classes="log", elem_id="log"
            )  # fmt: skip
        self._shown = [
            self._queue, self._facts, self._stop, self._resume, self.judge, self.ship, self._told, self._charts, self._samples,
            self._command, self._log,
        ]  # fmt: skip

    def _connect(self, studio: Studio) -> None:
        seen = [self._seen, *self._shown]
        studio.page.load(self.look, None, self.looked, **QUIET)
        self.tab.select(self._offers, None, [self.chosen, self._recipe], **QUIET)
        looks = [
            Look(self._again, [self.chosen, self._seen], seen),
            Look(self._searches.look, self._searches.looks_at, self._searches.looked),
        ]
        read, given, changes = together(looks)
        heart().tick(read, given, changes, **LOOK)
        self.chosen.input(self._does(lambda name: None), [self.chosen, self._seen], seen, **QUIET)
        self._recipe.input(lambda: "", None, self._told, **QUIET)  # why another one was not trained
        self._stop.click(self._does(self._stops), [self.chosen, self._seen], seen, **QUIET)
        self._resume.click(self._does(self._resumes), [self.chosen, self._seen], seen, **QUIET)
        self._start.click(self._starts, self._recipe, [self._told, self.chosen], **QUIET).then(
            self._again, [self.chosen, self._seen], seen, **QUIET
        )

    def look(self) -> list[Any]:
        """What there is: the newest run is shown."""
        jobs = self._jobs.all()
        known = courses.names(self._workspace, jobs)
        running = next((job.name for job in jobs if job.kind == "train" and job.state == "running"), None)
        first = [running] if running else known[:1]
        recipes = self._workspace.recipe_names()
        runs = gr.update(choices=known, value=first)
        return [
            runs,
            gr.update(choices=recipes, value=recipes[0] if recipes else None),
            *self._again(first, None),
        ]

    def _offers(self) -> list[Any]:
        """What there is to choose from; what is chosen stays."""
        runs, recipes = courses.names(self._workspace, self._jobs), self._workspace.recipe_names()
        return [gr.update(choices=runs), gr.update(choices=recipes)]

    def _again(self, chosen: Sequence[str] | None, seen: tuple[Any, ...] | None) -> list[Any]:
        """What has changed of the queue and the chosen runs since the page saw them."""
        now = self._now(chosen or (), self._jobs.all())
        before = list(seen or (None,) * len(now))
        if before[2:6] != list(
            now[2:6]
        ):  # its state is another: why something could not be done then is over
            before[self._shown.index(self._told)] = None
        updates = [gr.skip() if old == new else _update(new) for old, new in zip(before, now, strict=True)]
        return [now, *updates]

    def _now(self, chosen: Sequence[str], jobs: Sequence[Job]) -> tuple[Any, ...]:
        """Values for the shown components, comparable."""
        queue = shown_runs.queue(jobs, time.time())
        if not chosen:
            off = (_button("Stop", False), _button("Resume", False), _onward(False), _onward(False))
            return (queue, waiting(_NONE), *off, "", "", "", (), "")
        shown = [courses.course(self._workspace, jobs, name) for name in chosen]
        first, job = shown[0], shown[0].job
        peak = courses.peak_bytes(self._workspace.jobs, job)
        log = "" if job is None else self._jobs.log(job.id)
        ends = job is not None and job.state in ("waiting", "running")
        goes_on = first.resumable and not ends
        return (
            queue,
            shown_runs.facts(first, peak, self._planned_bytes(first.name), log),
            _button("Stop at once" if job is not None and job.stopping else "Stop", ends),
            _button("Resume", goes_on),
            _onward(first.finished),
            _onward(first.finished),
            self._trouble(first, log),
            plots.charts([one for one in shown if one.entries]),
            shown_runs.samples(first),
            self._line(first),
            log[-LOG_CHARACTERS:],
        )

    def _line(self, course: Course) -> tuple[str, ...]:
        """The command that was, or would be, run."""
        return course.job.command if course.job is not None else ()

    def _trouble(self, course: Course, log: str) -> str:
        """Why it failed, in a sentence; or what the training itself has to say."""
        if course.job is not None and course.job.state == "failed":
            code = course.job.returncode
            killed = code is None or code < 0
            told = "It was killed. Resume goes on from its last checkpoint." if killed else problem_in(log)
            return problem(told or "It failed and said nothing.")
        troubles = [] if course.record is None else course.record.troubles()
        return "".join(map(problem, troubles))

    def _planned_bytes(self, name: str) -> int | None:
        try:
            needed = read_json(self._workspace.own / "plans" / f"{name}.json")["needed_bytes"]
            return int(needed)
        except (PtuneError, KeyError, TypeError, ValueError):
            return None

    def _does(self, what: Callable[[str], None]) -> Callable[..., list[Any]]:
        """An event that does something to the first of the chosen runs."""

        def done(chosen: Sequence[str], seen: tuple[Any, ...] | None) -> list[Any]:
            told = ""
            try:
                if chosen:
                    what(chosen[0])
            except PtuneError as error:
                told = problem(str(error))
            updates = self._again(chosen, seen)
            at = self._shown.index(self._told)
            updates[1 + at] = told or updates[0][at]
            return updates

        return done

    def _stops(self, name: str) -> None:
        job = self._jobs.newest("train", name)
        if job is None:
            raise UsageError(f"{name} was not begun here: stop it where it runs.")
        self._jobs.stop(job.id)

    def _resumes(self, name: str) -> None:
        job = self._jobs.newest("train", name)
        if job is not None and job.state in ("waiting", "running"):
            raise UsageError(f"{name} is {job.state} already.")
        recipe = self._workspace.recipe(name)
        own = self._workspace.run(name) / "recipe.yaml"
        source = self._workspace.shown(recipe if recipe.exists() else own)
        self._jobs.add("train", name, commands.train(source, f"runs/{name}", resume=True))

    def _starts(self, name: str | None) -> list[Any]:
        """Trains a recipe that is there, whoever wrote it."""
        try:
            if not name:
                raise UsageError("There is no recipe yet: make one on the tab Recipe.")
            start(self._jobs, name)
        except PtuneError as error:
            return [problem(str(error)), gr.skip()]
        return ["", gr.update(choices=courses.names(self._workspace, self._jobs), value=[name])]


def _button(name: str, works: bool) -> tuple[str, str, bool]:
    return ("button", name, works)


def _onward(there: bool) -> tuple[str, bool]:
    return ("onward", there)


def _update(value: Any) -> Any:
    """A comparable value as a component takes it."""
    if isinstance(value, tuple) and value[:1] == ("button",):
        return gr.update(value=value[1], interactive=value[2])
    if isinstance(value, tuple) and value[:1] == ("onward",):
        return gr.update(visible=value[1])
    return shows(value) if isinstance(value, tuple) else value
