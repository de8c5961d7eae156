"""Adapters of a running server, in the tab Ship: added while it serves, and tried on a share of its requests."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ptune.errors import PtuneError
from ptune.studio.command_shown import command_line
from ptune.studio.serve.servers import Client, alias_body, curl, served
from ptune.studio.sheet import error, note
from ptune.studio.ship.aliases import alias_table
from ptune.studio.studio import LOOK_AGAIN_S, QUIET, Studio


class Rollout:
    """Renders two accordions. run: the menu of the tab's run."""

    def __init__(self, studio: Studio, run: gr.Dropdown) -> None:
        self._studio = studio
        with gr.Accordion("Add to a running server", open=False, elem_id="ship-add"):
            with gr.Row():
                server = gr.Dropdown(
                    [], label="Server", elem_id="add-server", allow_custom_value=True, interactive=True,
                    info="one of this studio's, or an address",
                )  # fmt: skip
                key = gr.Textbox(label="Its key of scope admin, if it asks for one", type="password")
                name = gr.Textbox(label="Name (none: the run's)", elem_id="add-name")
            with gr.Row(elem_classes="doing"):
                add = gr.Button("Add", elem_id="add-do", size="sm")
            add_command, added = command_line("The same with curl"), gr.HTML(elem_id="add-told")
        with gr.Accordion("Canary: a share of the requests", open=False, elem_id="ship-canary"):
            with gr.Row():
                alias = gr.Textbox(
                    label="Alias that clients ask for", placeholder="prod", elem_id="canary-alias"
                )
                now = gr.Textbox(label="Adapter that answers it", elem_id="canary-now")
                canary = gr.Textbox(label="Canary (none: all to the adapter)", elem_id="canary-name")
                share = gr.Slider(0.01, 0.99, 0.1, step=0.01, label="The canary's share")
            with gr.Row():
                decide = gr.Checkbox(label="Users' scores decide")
                margin = gr.Number(0.05, label="By so much it may be worse", minimum=0, maximum=0.99)
            with gr.Row(elem_classes="doing"):
                point = gr.Button("Point the alias", elem_id="canary-do", size="sm")
                back = gr.Button("Roll back", elem_id="canary-back", size="sm")
            canary_command, aliases = command_line("The same with curl"), gr.HTML(elem_id="canary-told")
        place = [server, key]

        known = gr.State([])

        def offer(chosen: str | None, before: list[str]) -> Any:
            """A menu is left alone while what it offers is the same: somebody may be choosing."""
            urls = [one.url for one in served(studio.jobs) if one.url]
            if urls == before:
                return gr.skip(), before
            kept = chosen if chosen and (chosen in urls or chosen not in before) else next(iter(urls), None)
            return gr.update(choices=urls, value=kept), urls

        offered = ([server, known], [server, known])
        gr.on([studio.page.load, gr.Timer(LOOK_AGAIN_S).tick], offer, *offered, **QUIET)
        add.click(self._add, [run, *place, name], [added, add_command], **QUIET)
        pointed = [*place, alias, now, canary, share, decide, margin]
        point.click(self._point, pointed, [aliases, canary_command], **QUIET)
        back.click(self._back, [*place, alias], [aliases, canary_command], **QUIET)

    def _add(self, run: str | None, server: str | None, key: str, name: str) -> tuple[str, Any]:
        try:
            folder = self._studio.workspace.run(run or "") / "adapter"
            called = (name or "").strip() or (run or "")
            with Client(server or "", key) as client:
                shown = self._studio.workspace.shown(folder)
                form = [f"name={called}", *(f"files=@{shown}/{one.name}" for one in client.files(folder))]
                line = _line(curl(client.url, "/v1/adapters", key=bool(key), form=form))
                card = client.add(called, folder)
        except PtuneError as problem:
            return error(str(problem)), gr.skip()
        told = f"{called} is served, {card.get('parity', 'unmeasured')}: ptune add measures it against torch."
        return note(told, "good"), line

    def _point(
        self,
        server: str | None,
        key: str,
        alias: str,
        now: str,
        canary: str,
        share: float,
        decide: bool,
        margin: float,
    ) -> tuple[str, Any]:
        try:
            body = alias_body(alias or "", (canary or "").strip(), share, margin if decide else None)
            with Client(server or "", key) as client:
                path = client.alias_path(now or "")
                line = _line(curl(client.url, path, key=bool(key), body=body))
                client.point(now or "", body)
                return alias_table(client.aliases()), line
        except PtuneError as problem:
            return error(str(problem)), gr.skip()

    def _back(self, server: str | None, key: str, alias: str) -> tuple[str, Any]:
        try:
            with Client(server or "", key) as client:
                line = _line(curl(client.url, f"/v1/aliases/{alias}/rollback", key=bool(key)))
                client.roll_back(alias or "")
                return alias_table(client.aliases()), line
        except PtuneError as problem:
            return error(str(problem)), gr.skip()


def _line(command: str) -> Any:
    return gr.update(value=command, visible=True)
