"""Uploading to a model hub, in the tab Ship: the only thing in the studio that leaves this machine, and only if asked twice."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ptune.errors import PtuneError
from ptune.studio.command_shown import command_line, shows
from ptune.studio.heart import Look
from ptune.studio.jobs.log import last_error
from ptune.studio.sheet import error, note
from ptune.studio.ship.shipped import push_command
from ptune.studio.studio import QUIET, Studio

TOKEN = "The token is what `hf auth login` or HF_TOKEN says. Without a push nothing leaves this machine."  # noqa: S105
LINES = 12  # of what the command says


class Push:
    """Renders the accordion. run: the menu of the tab's run."""

    def __init__(self, studio: Studio, run: gr.Dropdown) -> None:
        self._studio = studio
        with gr.Accordion("Push to a model hub", open=False, elem_id="ship-push"):
            with gr.Row():
                what = gr.Radio(
                    ["adapter", "bundle", "gguf"], value="adapter", label="What", elem_id="push-what"
                )
                repository = gr.Textbox(
                    label="Repository", placeholder="OWNER/NAME", elem_id="push-repository"
                )
            with gr.Row():
                public = gr.Checkbox(label="Public")
                dry = gr.Checkbox(label="Only say what would go up", value=True, elem_id="push-dry")
            gr.HTML(note(TOKEN))
            with gr.Row(elem_classes="doing"):
                push = gr.Button("Push", elem_id="push-do", size="sm")
            command, told = command_line(), gr.HTML(elem_id="push-told")
        asked, known = [run, what, repository, public, dry], gr.State("")
        gr.on([one.change for one in asked], self._shown_command, asked, command, **QUIET)
        push.click(self._begin, asked, told, **QUIET)
        self.look = Look(self._look, [run, known], [told, known])

    def _words(
        self, run: str | None, what: str, repository: str | None, public: bool, dry: bool
    ) -> tuple[str, ...]:
        workspace = self._studio.workspace
        return push_command(workspace, what, run or "", repository or "", public=public, dry_run=dry)

    def _shown_command(self, *asked: Any) -> Any:
        try:
            return shows(self._words(*asked))
        except PtuneError:
            return shows(())

    def _begin(self, run: str | None, *asked: Any) -> str:
        try:
            self._studio.jobs.add("push", run or "", self._words(run, *asked))
        except PtuneError as problem:
            return error(str(problem))
        return note("Pushing …")

    def _look(self, run: str | None, before: str) -> Any:
        """What is the same is left alone: somebody may be reading an error."""
        job = None if run is None else self._studio.jobs.newest("push", run)
        if job is None:
            return gr.skip(), before
        log = self._studio.jobs.log(job.id)
        now = note(last_error(log), "bad") if job.state == "failed" else ""
        if not now:
            now = note(f"{job.state}: " + "\n".join(log.splitlines()[-LINES:]))
        return (gr.skip() if now == before else now), now
