"""The tab Ship: a run becomes a bundle that is proved while one watches, and leaves the workspace or is served."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ptune.errors import PtuneError
from ptune.formats.hop_log import Followed
from ptune.studio import proof
from ptune.studio.finished import finished_runs
from ptune.studio.jobs import Job
from ptune.studio.proof import last_error
from ptune.studio.sheet import error, note
from ptune.studio.shipped import (
    Export,
    downloads,
    export_command,
    has_gguf,
    places,
    profiles,
    profiles_for,
    push_command,
    speed_command,
)
from ptune.studio.studio import LOOK_AGAIN_S, QUIET, Studio
from ptune.studio.tabs.add_to_bundle import AddToBundle
from ptune.studio.tabs.command import command_line, shows
from ptune.studio.tabs.rollout import Rollout
from ptune.studio.tabs.start_server import StartServer

BUNDLE, GGUF = "ONNX bundle, for ptune serve", "GGUF, for llama.cpp and Ollama"
PROFILES = ("fp32", "int8", "int4", "nf4", "auto")
GGUF_TYPES = ("auto", "F32", "F16", "Q8_0", "Q4_0", "Q4_1", "Q4_K")


class Ship:
    """Renders the tab."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        with gr.Tab("Ship", id="ship") as self.tab:
            with gr.Row():
                self.run = gr.Dropdown([], label="Run", elem_id="ship-run", interactive=True, scale=3)
                form_menu = gr.Radio(
                    [BUNDLE, GGUF], value=BUNDLE, label="Export to", elem_id="ship-form", scale=3
                )
            with gr.Row():
                wanted = gr.CheckboxGroup(
                    ["fp32"], value=["fp32"], label="Profiles", elem_id="ship-profiles",
                    info="int8 and int4 are smaller and faster, and held to fp32's answers; auto takes the fastest here",
                )  # fmt: skip
                kind = gr.Dropdown(GGUF_TYPES, value="auto", label="Type of the weights", visible=False)
            with gr.Row():
                cache = gr.Checkbox(label="Keys and values in int8, too")
                merge = gr.Checkbox(label="Merge the adapter into the weights")
                anyway = gr.Checkbox(label="Even if no better than a baseline")
            with gr.Row(elem_classes="doing"):
                export = gr.Button("Export and prove", variant="primary", elem_id="ship-export", size="sm")
                stop = gr.Button("Stop", elem_id="ship-stop", size="sm", visible=False)
            command = command_line()
            state = gr.HTML(elem_id="ship-state")
            table = gr.HTML(elem_id="ship-proof")
            sizes = gr.HTML(elem_id="ship-sizes")
            with gr.Row(elem_classes="doing"):
                measure = gr.Button(
                    "Measure the speed here", elem_id="ship-measure", size="sm", visible=False
                )
            speed_state = gr.HTML(elem_id="ship-speed")
            files = gr.HTML(elem_id="ship-downloads")
            self.server = StartServer(studio, self.run)
            self.beside = AddToBundle(studio, self.run)
            self.rollout = Rollout(studio, self.run)
            with gr.Accordion("Push to a model hub", open=False, elem_id="ship-push"):
                self._push()
        asked = [self.run, form_menu, wanted, kind, cache, merge, anyway]
        known = gr.State(None)
        again = gr.Timer(LOOK_AGAIN_S)
        shown = [
            self.run,
            form_menu,
            wanted,
            kind,
            cache,
            export,
            stop,
            state,
            table,
            sizes,
            measure,
            speed_state,
            files,
            known,
        ]

        def look(chosen: str | None, form: str, before: tuple[Any, ...] | None) -> Any:
            """Reads the files again, and updates the page only if they have changed."""
            names = finished_runs(studio.workspace)
            run = chosen if chosen in names else next(iter(names), None)
            job = None if run is None else self._job(run, form)
            so_far = Followed() if job is None else proof.followed(job, studio.workspace.folder)
            speed = None if run is None else studio.jobs.newest("speed", run)
            there = () if run is None else tuple(places(studio.workspace, run))
            now = (
                tuple(names),
                run,
                form,
                job,
                so_far.stages,
                sum(map(len, so_far.hops.values())),
                speed,
                there,
            )
            if now == before:
                return gr.skip()
            busy = job is not None and job.state in ("waiting", "running")
            return {
                self.run: gr.update(choices=names, value=run),
                **self._offered(run, before, form_menu, wanted, kind, cache),
                export: gr.update(interactive=run is not None and not busy),
                stop: gr.update(visible=busy),
                state: self._state(run, job, so_far),
                table: self._table(run, form, job, so_far),
                sizes: self._profiles(run) if form == BUNDLE else "",
                measure: gr.update(visible="bundle" in there and form == BUNDLE),
                speed_state: self._speed(speed),
                files: "" if run is None else downloads(studio.workspace, run),
                known: now,
            }

        looked = ([self.run, form_menu, known], shown)
        gr.on(
            [studio.page.load, again.tick, self.tab.select, self.run.input, form_menu.input],
            look,
            *looked,
            **QUIET,
        )
        form_menu.input(
            lambda form: [gr.update(visible=form == BUNDLE), gr.update(visible=form == GGUF), gr.update(visible=form == BUNDLE)],
            form_menu, [wanted, kind, cache], **QUIET,
        )  # fmt: skip
        gr.on([one.change for one in asked], self._command, asked, command, **QUIET)
        known.change(self._command, asked, command, **QUIET)  # what is there is replaced by --force
        export.click(self._export, asked, state, **QUIET).then(look, *looked, **QUIET)
        stop.click(self._stop, [self.run, form_menu], state, **QUIET)
        measure.click(self._measure, self.run, speed_state, **QUIET)

    def _push(self) -> None:
        """The accordion's content."""
        with gr.Row():
            what = gr.Radio(["adapter", "bundle", "gguf"], value="adapter", label="What", elem_id="push-what")
            repository = gr.Textbox(label="Repository", placeholder="OWNER/NAME", elem_id="push-repository")
            public = gr.Checkbox(label="Public", value=False)
            dry = gr.Checkbox(label="Only say what would go up", value=True, elem_id="push-dry")
        gr.HTML(
            note(
                "The token is what `hf auth login` or HF_TOKEN says. Without a push nothing leaves this machine."
            )
        )
        with gr.Row(elem_classes="doing"):
            push = gr.Button("Push", elem_id="push-do", size="sm")
        command, told = command_line(), gr.HTML(elem_id="push-told")
        asked = [self.run, what, repository, public, dry]

        def words(run: str | None, what: str, repository: str, public: bool, dry: bool) -> tuple[str, ...]:
            return push_command(
                self._studio.workspace, what, run or "", repository or "", public=public, dry_run=dry
            )

        def show(*arguments: Any) -> Any:
            try:
                return shows(words(*arguments))
            except PtuneError:
                return shows(())

        def start(run: str | None, *arguments: Any) -> str:
            try:
                self._studio.jobs.add("push", run or "", words(run, *arguments))
            except PtuneError as problem:
                return error(str(problem))
            return note("Pushing …")

        def look(run: str | None) -> Any:
            job = None if run is None else self._studio.jobs.newest("push", run)
            if job is None:
                return gr.skip()
            log = self._studio.jobs.log(job.id)
            if job.state == "failed":
                return note(last_error(log), "bad")
            lines = "\n".join(line for line in log.splitlines()[-12:])
            return note(f"{job.state}: {lines}" if lines else job.state)

        gr.on([one.change for one in asked], show, asked, command, **QUIET)
        push.click(start, asked, told, **QUIET)
        gr.Timer(LOOK_AGAIN_S).tick(look, self.run, told, **QUIET)

    def _offered(
        self,
        run: str | None,
        before: tuple[Any, ...] | None,
        form_menu: Any,
        wanted: Any,
        kind: Any,
        cache: Any,
    ) -> dict[Any, Any]:
        """What a run's kind of model can be exported to, where another run is looked at than before."""
        if run is None or (before is not None and before[1] == run):
            return {}
        try:
            offered, gguf = profiles_for(self._studio.workspace, run), has_gguf(self._studio.workspace, run)
        except PtuneError:
            return {}
        return {
            form_menu: gr.update(choices=[BUNDLE, *([GGUF] if gguf else [])], value=BUNDLE),
            wanted: gr.update(choices=list(offered), value=["fp32"], visible=True),
            kind: gr.update(visible=False),
            cache: gr.update(visible=gguf),
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

    def _command(self, run: str | None, *asked: Any) -> Any:
        try:
            return shows(self._words(run, *asked) if run else ())
        except PtuneError:
            return shows(())

    def _export(self, run: str | None, *asked: Any) -> str:
        if run is None:
            return error("No run has finished yet: train one in the tab Run.")
        try:
            self._studio.jobs.add("export", run, self._words(run, *asked))
        except PtuneError as problem:
            return error(str(problem))
        return note("Exporting …")

    def _stop(self, run: str | None, form: str) -> str:
        job = None if run is None else self._job(run, form)
        if job is not None:
            self._studio.jobs.stop(job.id)
        return note("Stopping …")

    def _state(self, run: str | None, job: Job | None, so_far: Followed) -> str:
        if run is None:
            return note("No run has finished yet: train one in the tab Run.")
        if job is None:
            return note(
                "An export writes the model anew, and holds each hop to the one before: nothing is shipped unproved."
            )
        return proof.state(job, so_far, self._studio.jobs.log(job.id))

    def _table(self, run: str | None, form: str, job: Job | None, so_far: Followed) -> str:
        if run is None:
            return ""
        if so_far.hops:
            return proof.table(so_far.hops, f"The proof of {run}, hop by hop")
        if job is not None or form == GGUF or "bundle" not in places(self._studio.workspace, run):
            return ""
        try:  # it was exported by hand
            return proof.table(
                proof.recorded(self._studio.workspace.bundle(run)), f"The proof of bundles/{run}"
            )
        except PtuneError as problem:
            return error(str(problem))

    def _profiles(self, run: str | None) -> str:
        try:
            return "" if run is None else profiles(self._studio.workspace, run)
        except PtuneError as problem:
            return error(str(problem))

    def _measure(self, run: str | None) -> str:
        try:
            if run is not None:
                self._studio.jobs.add("speed", run, speed_command(self._studio.workspace, run))
        except PtuneError as problem:
            return error(str(problem))
        return note("Measuring, after the jobs before it …")

    def _speed(self, job: Job | None) -> str:
        if job is None or job.state in ("done", "stopped"):
            return ""
        if job.state == "failed":
            return note(last_error(self._studio.jobs.log(job.id)), "bad")
        return note(f"Measuring the speed: {job.state}; other work on this machine slows it down.")
