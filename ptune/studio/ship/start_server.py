"""Serving a bundle, in the tab Ship: a server beside the queue, which outlives the studio."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from ptune.errors import PtuneError
from ptune.formats.bundle import Bundle
from ptune.studio.command_shown import command_line, shows
from ptune.studio.heart import Look
from ptune.studio.jobs.log import last_error
from ptune.studio.serve.servers import serve_command, served
from ptune.studio.sheet import error, note, opens
from ptune.studio.studio import QUIET, Studio

DEFAULT = "the bundle's default"
STARTING = note("Starting …")


class StartServer:
    """Renders the accordion. run: the menu of the tab's run, whose bundle is offered first."""

    def __init__(self, studio: Studio, run: gr.Dropdown) -> None:
        self._studio = studio
        with gr.Accordion("Serve", open=True, elem_id="ship-serve"):
            with gr.Row():
                bundle = gr.Dropdown([], label="Bundle", elem_id="serve-bundle", interactive=True)
                profile = gr.Dropdown([DEFAULT], value=DEFAULT, label="Profile", interactive=True)
                port = gr.Number(0, label="Port (0: a free one)", precision=0, minimum=0, maximum=65535)
                keys = gr.Textbox(
                    label="File of API keys", info="empty: this machine alone", elem_id="serve-keys"
                )
                page = gr.Checkbox(True, label="With a page to try it on")
            with gr.Row(elem_classes="doing"):
                start = gr.Button(
                    "Serve", variant="primary", elem_id="serve-start", size="sm", interactive=False
                )
            command, told = command_line(), gr.HTML(elem_id="serve-told")
        asked = [bundle, profile, port, keys, page]
        self._asked, self._shown = asked, told
        self.taken = [bundle, told]  # of a run that another tab leads here with

        def offer(run: str | None, bundle: str | None, before: tuple[list[str], str, str | None]) -> Any:
            """What is the same is left alone: somebody may be choosing, or reading an error. Another run brings its own bundle."""
            names = studio.workspace.bundle_names()
            chosen = bundle if bundle in names and run == before[2] else self._own(run, names)
            said = self._told(chosen, run)
            same = names == before[0] and chosen == bundle
            menu = gr.skip() if same else gr.update(choices=names, value=chosen)
            now = gr.skip() if (said, run) == before[1:] else said
            return menu, gr.update(interactive=chosen is not None), now, (names, said, run)

        def follow(run: str | None) -> Any:
            names = studio.workspace.bundle_names()
            own = self._own(run, names)
            return gr.update(choices=names, value=own), self._told(own, run)

        def of_bundle(name: str | None) -> Any:
            try:
                graphs = Bundle.open(studio.workspace.bundle(name)).manifest.graphs if name else {}
            except PtuneError:
                graphs = {}
            return gr.update(choices=[DEFAULT, *graphs], value=DEFAULT)

        known = gr.State(([], "", None))
        self.look = Look(offer, [run, bundle, known], [bundle, start, told, known])
        run.change(follow, run, self.taken, **QUIET)
        bundle.change(of_bundle, bundle, profile, **QUIET)
        gr.on([one.change for one in asked], self._command, asked, command, **QUIET)
        start.click(self._start, asked, told, **QUIET)

    def take(self) -> list[Any]:
        """Updates of `taken`: nothing of another run, until the files are read."""
        return [gr.update(value=None), ""]

    def _own(self, run: str | None, names: list[str]) -> str | None:
        """The bundle of a run; without a run the newest one."""
        return next(iter(names), None) if run is None else run if run in names else None

    def _words(self, bundle: str, profile: str, port: float | None, keys: str, page: bool) -> tuple[str, ...]:
        chosen = None if profile == DEFAULT else profile
        return serve_command(
            self._studio.jobs, bundle, profile=chosen, port=int(port or 0), keys=keys or "", page=page
        )

    def _command(self, bundle: str | None, *asked: Any) -> Any:
        try:
            return shows(self._words(bundle, *asked) if bundle else ())
        except PtuneError:
            return shows(())

    def starts(self, button: gr.Button, run: gr.Dropdown) -> None:
        """Makes a button serve a run's own bundle, as the row of options says, and the page go to the tab Serve."""
        begun = gr.State(False)

        def start(name: str | None, bundle: str | None, profile: str, *asked: Any) -> tuple[str, bool]:
            said = self._start(name, profile if bundle == name else DEFAULT, *asked)
            return said, said == STARTING

        def go(went: bool) -> Any:
            return gr.update(selected="serve") if went else gr.skip()

        started = button.click(start, [run, *self._asked], [self._shown, begun], **QUIET)
        started.then(go, begun, self._studio.tabs, **QUIET)

    def _start(self, bundle: str | None, *asked: Any) -> str:
        if bundle is None:
            return error("There is no bundle to serve: export the run, or choose another one's.")
        try:
            self._studio.jobs.add("serve", bundle, self._words(bundle, *asked))
        except PtuneError as problem:
            return error(str(problem))
        return STARTING

    def _told(self, bundle: str | None, run: str | None) -> str:
        """What became of the newest server of a bundle; without one, that the run has none yet."""
        if bundle is None and run is not None:
            return note(f"{run} has no bundle yet: export it, or choose another bundle.")
        job = None if bundle is None else self._studio.jobs.newest("serve", bundle)
        if job is None or job.state == "stopped":
            return ""
        if job.state == "failed":
            return note(last_error(self._studio.jobs.log(job.id)), "bad")
        one = next((one for one in served(self._studio.jobs) if one.job.id == job.id), None)
        return STARTING if one is None or one.url is None else serves(job.name, one.url, one.page)


def serves(name: str, url: str, page: str | None) -> str:
    """Where the server of a bundle answers, as HTML, and the way to its page if it has one."""
    link = f" {opens(page, 'Open the page')}" if page else ""
    return f'<p class="note good" role="status">Serves {escape(name)} at {escape(url)}/v1; the tab Serve shows how it does.{link}</p>'
