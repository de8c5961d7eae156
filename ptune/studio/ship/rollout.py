"""Adapters of a running server, in the tab Ship: added while it serves, and tried on a share of its requests."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ptune.errors import PtuneError, UsageError
from ptune.studio.command_shown import command_line
from ptune.studio.heart import Look
from ptune.studio.serve.server_fields import server_fields
from ptune.studio.serve.servers import Client, alias_body, curl, served
from ptune.studio.sheet import error, note
from ptune.studio.ship.aliases import alias_table
from ptune.studio.studio import QUIET, Studio


class Rollout:
    """Renders the server that is meant, and two accordions. run: the menu of the tab's run."""

    def __init__(self, studio: Studio, run: gr.Dropdown) -> None:
        self._studio, self._run = studio, run
        gr.HTML("<h2>A running server</h2>")
        self._server, self._key = server_fields("add", "Its key of scope admin")
        with gr.Accordion("Add to a running server", open=False, elem_id="ship-add"):
            self._render_adding()
        with gr.Accordion("Canary: a share of the requests", open=False, elem_id="ship-canary") as box:
            self._render_canary()
        self._place = [self._server, self._key]
        known = gr.State([])
        self.look = Look(self._offer, [self._server, known], [self._server, known])
        self._connect(box)

    def _render_adding(self) -> None:
        self._name = gr.Textbox(label="Name", info="empty: the run's", elem_id="add-name")
        with gr.Row(elem_classes="doing"):
            self._do_add = gr.Button("Add", elem_id="add-do", size="sm")
        self._add_line, self._added = command_line("The same with curl"), gr.HTML(elem_id="add-told")

    def _render_canary(self) -> None:
        with gr.Row():
            self._alias = gr.Textbox(
                label="Alias", info="that clients ask for", placeholder="prod", elem_id="canary-alias"
            )
            self._now = _adapter("Adapter", "that answers it", "canary-now")
            self._canary = _adapter("Canary", "empty: all to the adapter", "canary-name")
        with gr.Row():
            self._share = gr.Slider(0.01, 0.99, 0.1, step=0.01, label="The canary's share")
            self._decide = gr.Checkbox(label="Users' scores decide")
            self._margin = gr.Number(0.05, label="By so much it may be worse", minimum=0, maximum=0.99)
        with gr.Row(elem_classes="doing"):
            self._do_point = gr.Button("Point the alias", elem_id="canary-do", size="sm")
            self._do_back = gr.Button("Roll back", elem_id="canary-back", size="sm")
        self._canary_line, self._aliases = command_line("The same with curl"), gr.HTML(elem_id="canary-told")

    def _connect(self, box: gr.Accordion) -> None:
        self._do_add.click(
            self._add, [self._run, *self._place, self._name], [self._added, self._add_line], **QUIET
        )
        pointed = [
            *self._place,
            self._alias,
            self._now,
            self._canary,
            self._share,
            self._decide,
            self._margin,
        ]
        told = [self._aliases, self._canary_line]
        self._do_point.click(self._point, pointed, told, **QUIET)
        self._do_back.click(self._back, [*self._place, self._alias], told, **QUIET)
        named = [self._now, self._canary]
        # What a server has is asked for when somebody wants to know, and not again and again.
        gr.on(
            [box.expand, self._server.input, self._key.submit, self._do_add.click], self._offer_adapters,
            [*self._place, *named], [*named, self._aliases], **QUIET,
        )  # fmt: skip

    def _offer(self, chosen: str | None, before: list[str]) -> Any:
        """A menu is left alone while what it offers is the same: somebody may be choosing."""
        urls = [one.url for one in served(self._studio.jobs) if one.url]
        if urls == before:
            return gr.skip(), before
        kept = chosen if chosen and (chosen in urls or chosen not in before) else next(iter(urls), None)
        return gr.update(choices=urls, value=kept), urls

    def _offer_adapters(
        self, server: str | None, key: str | None, now: str | None, canary: str | None
    ) -> list[Any]:
        """The adapters that the server has, and its aliases."""
        try:
            with _client(server, key) as client:
                names, aliases = [str(card["name"]) for card in client.adapters()], client.aliases()
        except PtuneError as problem:
            return [gr.skip(), gr.skip(), error(str(problem))]
        chosen = now if now else next(iter(names), None)
        return [
            gr.update(choices=names, value=chosen), gr.update(choices=["", *names], value=canary or ""), alias_table(aliases),
        ]  # fmt: skip

    def _add(self, run: str | None, server: str | None, key: str, name: str) -> tuple[str, Any]:
        try:
            if not run:
                raise UsageError("No run has finished yet: train one in the tab Run.")
            folder = self._studio.workspace.run(run) / "adapter"
            called = (name or "").strip() or run
            with _client(server, key) as client:
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
            with _client(server, key) as client:
                path = client.alias_path(now or "")
                line = _line(curl(client.url, path, key=bool(key), body=body))
                client.point(now or "", body)
                return alias_table(client.aliases()), line
        except PtuneError as problem:
            return error(str(problem)), gr.skip()

    def _back(self, server: str | None, key: str, alias: str) -> tuple[str, Any]:
        try:
            with _client(server, key) as client:
                line = _line(curl(client.url, f"/v1/aliases/{alias}/rollback", key=bool(key)))
                client.roll_back(alias or "")
                return alias_table(client.aliases()), line
        except PtuneError as problem:
            return error(str(problem)), gr.skip()


def _adapter(label: str, info: str, name: str) -> gr.Dropdown:
    """A menu of the server's adapters, into which another's name can be written."""
    return gr.Dropdown(
        [], value="", label=label, info=info, elem_id=name, allow_custom_value=True, interactive=True
    )


def _client(server: str | None, key: str | None) -> Client:
    """Raises: UsageError where no server is named."""
    if not server:
        raise UsageError("No server runs here: start one above, or write another's address.")
    return Client(server, key)


def _line(command: str) -> Any:
    return gr.update(value=command, visible=True)
