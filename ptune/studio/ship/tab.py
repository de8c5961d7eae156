"""The tab Ship: a run becomes a bundle that is proved while one watches, and leaves the workspace or is served."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ptune.errors import PtuneError
from ptune.formats.hop_log import Followed
from ptune.studio.command_shown import command_line, shows
from ptune.studio.heart import Look, heart, together
from ptune.studio.jobs.finished_runs import finished_runs
from ptune.studio.jobs.log import last_error
from ptune.studio.jobs.queue import Job
from ptune.studio.run.none_finished import none_finished
from ptune.studio.sheet import error, note
from ptune.studio.ship import proof
from ptune.studio.ship.add_to_bundle import AddToBundle
from ptune.studio.ship.push import Push
from ptune.studio.ship.rollout import Rollout
from ptune.studio.ship.shipped import (
    Export,
    downloads,
    export_command,
    has_gguf,
    places,
    profiles,
    profiles_for,
    speed_command,
)
from ptune.studio.ship.start_server import StartServer
from ptune.studio.studio import QUIET, Studio

BUNDLE, GGUF = "ONNX bundle, for ptune serve", "GGUF, for llama.cpp and Ollama"
PROFILES = ("fp32", "int8", "int4", "nf4", "auto")
PLAIN: tuple[Any, ...] = (BUNDLE, ["fp32"], "auto", False, False, False)
"""What is asked for at first of a run, as the form has it."""
GGUF_TYPES = ("auto", "F32", "F16", "Q8_0", "Q4_0", "Q4_1", "Q4_K")


class Ship:
    """Renders the tab."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        with gr.Tab("Ship", id="ship") as self.tab:
            self._render_asked()
            self._render_found()
            self.server = StartServer(studio, self.run)
            self.beside = AddToBundle(studio, self.run)
            self.rollout = Rollout(studio, self.run)
            self.push = Push(studio, self.run)
            self._connect()  # inside: what stands between tabs would count as one

    def _render_asked(self) -> None:
        with gr.Row():
            self.run = gr.Dropdown([], label="Run", elem_id="ship-run", interactive=True)
            self._form = gr.Radio([BUNDLE, GGUF], value=BUNDLE, label="Export to", elem_id="ship-form")
        with gr.Row():
            self._wanted = gr.CheckboxGroup(
                ["fp32"], value=["fp32"], label="Profiles", elem_id="ship-profiles",
                info="int8 and int4 are smaller and faster, and held to fp32's answers; auto takes the fastest here",
            )  # fmt: skip
            self._kind = gr.Dropdown(GGUF_TYPES, value="auto", label="Type of the weights", visible=False)
        with gr.Row():
            self._cache = gr.Checkbox(label="Keys and values in int8, too", min_width=220)
            self._merge = gr.Checkbox(label="Merge the adapter into the weights", min_width=220)
            self._anyway = gr.Checkbox(label=proof.ANYWAY, min_width=220)
        with gr.Row(elem_classes="doing"):
            self._export = gr.Button("Export and prove", variant="primary", elem_id="ship-export", size="sm")
            self._stop = gr.Button("Stop", elem_id="ship-stop", size="sm", visible=False)
        self._command = command_line()

    def _render_found(self) -> None:
        self._state = gr.HTML(elem_id="ship-state")
        self._proof = gr.HTML(elem_id="ship-proof")
        self._sizes = gr.HTML(elem_id="ship-sizes")
        with gr.Row(elem_classes="doing"):
            self._serve = gr.Button("Serve it", elem_id="ship-serve-it", size="sm", visible=False)
            self._measure = gr.Button(
                "Measure the speed here", elem_id="ship-measure", size="sm", visible=False
            )
        self._speed = gr.HTML(elem_id="ship-speed")
        self._files = gr.HTML(elem_id="ship-downloads")

    def _connect(self) -> None:
        known = gr.State(None)
        asked = [self.run, self._form, self._wanted, self._kind, self._cache, self._merge, self._anyway]
        shown = [
            self.run, self._form, self._wanted, self._kind, self._cache, self._merge, self._anyway, self._export, self._stop, self._state, self._proof,
            self._sizes, self._serve, self._measure, self._speed, self._files, self._command, known,
        ]  # fmt: skip

        def look(chosen: str | None, form: str, before: tuple[Any, ...] | None) -> Any:
            """Reads the files again, and updates the page only if they have changed."""
            now, so_far = self._looked(chosen, form)
            return gr.skip() if now == before else {**self._changes(now, before, so_far), known: now}

        looked = ([self.run, self._form, known], shown)
        parts = [self.server.look, self.beside.look, self.rollout.look, self.push.look]
        again = [heart().tick, self.run.input, self._form.input]
        gr.on(again, *together([Look(look, *looked), *parts]), **QUIET)
        self._form.input(_options_of, self._form, [self._wanted, self._kind, self._cache], **QUIET)
        gr.on([one.change for one in asked], self._shown_command, asked, self._command, **QUIET)
        known.change(
            self._shown_command, asked, self._command, **QUIET
        )  # what is there is replaced by --force
        self._export.click(self._begin, asked, self._state, **QUIET).then(look, *looked, **QUIET)
        self._stop.click(self._end, [self.run, self._form], self._state, **QUIET)
        self.server.starts(self._serve, self.run)
        self._measure.click(self._begin_measuring, self.run, self._speed, **QUIET)

    @property
    def taken(self) -> list[Any]:
        """What changes at once where another tab leads here with a run."""
        return [self.run, self._command, self._state, self._proof, *self.server.taken]

    def take(self, run: Any) -> list[Any]:
        """Updates of `taken`: the run, and nothing that was said of another. run: an update of its menu."""
        return [run, shows(()), "", "", *self.server.take()]

    def _looked(self, chosen: str | None, form: str) -> tuple[tuple[Any, ...], Followed]:
        """Names of runs, the run, the form, its export, how much that has noted, its measuring, what there is of it: gradio
        hashes them to see whether they have changed. And what the export has noted."""
        names = tuple(finished_runs(self._studio.workspace))
        run = chosen if chosen in names else next(iter(names), None)
        if run is None:
            return (names, None, form, None, (none_finished(self._studio.jobs),), None, ()), Followed()
        job, speed = self._job(run, form), self._studio.jobs.newest("speed", run)
        so_far = Followed() if job is None else proof.followed(job, self._studio.workspace.folder)
        noted = (so_far.stages, sum(map(len, so_far.hops.values())))
        return (names, run, form, job, noted, speed, places(self._studio.workspace, run)), so_far

    def _changes(
        self, now: tuple[Any, ...], before: tuple[Any, ...] | None, so_far: Followed
    ) -> dict[Any, Any]:
        """What is to be updated of the page; as `_looked` has them."""
        names, run, form, job, _, speed, there = now
        busy = job is not None and job.state in ("waiting", "running")
        refused = job is not None and job.state != "done"  # what is there is of an export before
        update = {
            self._export: gr.update(interactive=run is not None and not busy),
            self._stop: gr.update(visible=busy),
            self._state: self._told(run, job, so_far),
            self._proof: self._table(run, form, job, so_far),
            self._sizes: self._profiles(run) if form == BUNDLE else "",
            self._measure: gr.update(visible="bundle" in there and form == BUNDLE),
            self._serve: gr.update(visible="bundle" in there and form == BUNDLE and not refused),
            self._speed: self._told_speed(speed),
            self._files: "" if run is None else downloads(self._studio.workspace, run),
        }
        if before is None or now[:2] != before[:2]:
            update[self.run] = gr.update(choices=list(names), value=run)
        if before is None or run != before[1]:
            update |= self._offered(run)
            update |= {
                self._merge: False,
                self._anyway: False,
                self._command: self._shown_command(run, *PLAIN),
            }
        return update

    def _offered(self, run: str | None) -> dict[Any, Any]:
        """What a run's kind of model can be exported to."""
        try:
            offered = profiles_for(self._studio.workspace, run) if run else ("fp32",)
        except PtuneError:
            offered = ("fp32",)
        gguf = "auto" in offered
        return {
            self._form: gr.update(choices=[BUNDLE, *([GGUF] if gguf else [])], value=BUNDLE),
            self._wanted: gr.update(choices=list(offered), value=["fp32"], visible=True),
            self._kind: gr.update(visible=False, value="auto"),
            self._cache: gr.update(visible=gguf, value=False),
        }

    def _job(self, run: str, form: str) -> Job | None:
        """The newest export of a run to this form."""
        found = [job for job in self._studio.jobs.all() if (job.kind, job.name) == ("export", run)]
        return next((job for job in reversed(found) if ("--gguf" in job.command) == (form == GGUF)), None)

    def _words(
        self, run: str, form: str, wanted: list[str], kind: str, cache: bool, merge: bool, anyway: bool
    ) -> tuple[str, ...]:
        chosen = ("auto",) if "auto" in wanted else tuple(name for name in PROFILES if name in wanted)
        asked = Export(chosen, cache, merge, anyway, gguf=form == GGUF, gguf_type=kind)
        return export_command(self._studio.workspace, run, asked)

    def _shown_command(self, run: str | None, *asked: Any) -> Any:
        try:
            return shows(self._words(run, *asked) if run else ())
        except PtuneError:
            return shows(())

    def _begin(self, run: str | None, *asked: Any) -> str:
        if run is None:
            return error(none_finished(self._studio.jobs))
        try:
            self._studio.jobs.add("export", run, self._words(run, *asked))
        except PtuneError as problem:
            return error(str(problem))
        return note("Exporting …")

    def _end(self, run: str | None, form: str) -> str:
        job = None if run is None else self._job(run, form)
        if job is not None:
            self._studio.jobs.stop(job.id)
        return note("Stopping …")

    def _told(self, run: str | None, job: Job | None, so_far: Followed) -> str:
        if run is None:
            return note(none_finished(self._studio.jobs))
        if job is None:
            return note(
                "An export writes the model anew, and holds each hop to the one before: nothing is shipped unproved."
            )
        return proof.state(job, so_far, self._studio.jobs.log(job.id))

    def _table(self, run: str | None, form: str, job: Job | None, so_far: Followed) -> str:
        if run is None:
            return ""
        if so_far.hops:
            said = proof.told(so_far.hops) if job is not None and job.state == "done" else ""
            return said + proof.table(so_far.hops, f"The proof of {run}, hop by hop", self._inputs(run))
        if job is not None or form == GGUF or "bundle" not in places(self._studio.workspace, run):
            return ""
        try:  # it was exported by hand
            hops = proof.recorded(self._studio.workspace.bundle(run))
            return proof.told(hops) + proof.table(hops, f"The proof of bundles/{run}", self._inputs(run))
        except PtuneError as problem:
            return error(str(problem))

    def _inputs(self, run: str) -> str:
        """What the proof of a run compares."""
        try:
            return "prompts" if has_gguf(self._studio.workspace, run) else "inputs"
        except PtuneError:
            return "inputs"

    def _profiles(self, run: str | None) -> str:
        try:
            return "" if run is None else profiles(self._studio.workspace, run)
        except PtuneError as problem:
            return error(str(problem))

    def _begin_measuring(self, run: str | None) -> str:
        try:
            if run is not None:
                self._studio.jobs.add("speed", run, speed_command(self._studio.workspace, run))
        except PtuneError as problem:
            return error(str(problem))
        return note("Measuring, after the jobs before it …")

    def _told_speed(self, job: Job | None) -> str:
        if job is None or job.state in ("done", "stopped"):
            return ""
        if job.state == "failed":
            return note(last_error(self._studio.jobs.log(job.id)), "bad")
        return note(f"Measuring the speed: {job.state}; other work on this machine slows it down.")


def _options_of(form: str) -> list[Any]:
    """Which of profiles, type and cache are asked for."""
    return [gr.update(visible=one) for one in (form == BUNDLE, form == GGUF, form == BUNDLE)]
