"""The tab Serve: the servers that run, what is asked of them, and an answer from one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from ptune.errors import PtuneError, UsageError
from ptune.studio.command_shown import command_line, shows
from ptune.studio.heart import LOOK, heart
from ptune.studio.judge.said import bars
from ptune.studio.serve.exposition import Scrape
from ptune.studio.serve.keys_form import KeysForm
from ptune.studio.serve.load import load_of
from ptune.studio.serve.load_tables import figures, keys, limits, models
from ptune.studio.serve.server_fields import server_fields
from ptune.studio.serve.servers import Client, Served, curl, gives_numbers, request_of, served, writes_text
from ptune.studio.sheet import error, note, opens
from ptune.studio.studio import QUIET, Studio

NONE_YET = "No server runs here: start one in the tab Ship, or name another's address."


@dataclass(frozen=True)
class Looked:
    """The last look. urls: of the servers that the studio has started; models, scrape: of the one that was looked at."""

    urls: tuple[str, ...] = ()
    url: str | None = None
    models: tuple[str, ...] = ()
    scrape: Scrape | None = None


class Serve:
    """Renders the tab."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        with gr.Tab("Serve", id="serve") as self.tab:
            self._render_server()
            self._render_asking()
            self._render_load()
            KeysForm(studio)
            self._connect()  # inside: what stands between tabs would count as one

    def _render_server(self) -> None:
        self.server, self.key = server_fields("serve", "Its key")
        with gr.Row(elem_classes="doing"):
            self._stop = gr.Button("Stop the server", elem_id="serve-stop", size="sm", visible=False)
        self._state = gr.HTML(elem_id="serve-state")
        self._command = command_line("Started with")

    def _render_load(self) -> None:
        self._tiles = gr.HTML(elem_id="serve-tiles")
        self._models = gr.HTML(elem_id="serve-models")
        self._keys = gr.HTML(elem_id="serve-keys-table")

    def _render_asking(self) -> None:
        with gr.Accordion("Ask it", open=True, elem_id="serve-ask"):
            with gr.Row():
                self._model = gr.Dropdown([], label="Model", elem_id="ask-model", interactive=True, scale=1)
                self._text = gr.Textbox(label="Text", elem_id="ask-text", lines=2, scale=3)
            with gr.Row(elem_classes="doing"):
                self._ask = gr.Button("Ask", variant="primary", elem_id="ask-do", size="sm")
            self._answer = gr.HTML(elem_id="ask-answer")
            self._asked_with = command_line("The same with curl")

    def _connect(self) -> None:
        last = gr.State(Looked())
        place = [self.server, self.key]
        shown = [
            self.server, self._stop, self._state, self._command, self._tiles, self._models, self._keys, self._model, last,
        ]  # fmt: skip

        def look(chosen: str | None, key: str | None, named: str | None, before: Looked) -> dict[Any, Any]:
            update, now = self._looked(chosen, key, named, before)
            return {**update, last: now}

        again = [heart().tick, self.server.input, self.key.submit]
        gr.on(again, look, [*place, self._model, last], shown, **LOOK)
        self._stop.click(self._end, self.server, self._state, **QUIET)
        asked = [*place, self._model, self._text]
        gr.on(
            [self._ask.click, self._text.submit],
            self._asked,
            asked,
            [self._answer, self._asked_with],
            **QUIET,
        )

    def _looked(
        self, chosen: str | None, key: str | None, named: str | None, before: Looked
    ) -> tuple[dict[Any, Any], Looked]:
        """What has changed on the page. A menu is left alone while what it offers is the same: somebody may be choosing."""
        found = served(self._studio.jobs)
        urls = tuple(one.url for one in found if one.url)
        if not chosen or (chosen in before.urls and chosen not in urls):  # that one has ended
            chosen = next(iter(urls), None)
        update: dict[Any, Any] = {}
        if urls != before.urls or chosen != before.url:
            update[self.server] = gr.update(choices=list(urls), value=chosen)
        own = next((one for one in found if one.url is not None and one.url == chosen), None)
        update[self._stop] = gr.update(visible=own is not None)
        update[self._command] = shows(own.job.command if own else ())
        update[self._keys] = keys(own.keys) if own else ""
        if chosen is None:
            told = "Starting …" if found else NONE_YET
            update |= {self._state: note(told), self._tiles: "", self._models: ""}
            return update, Looked(urls)
        try:
            with Client(chosen, key) as client:
                cards = client.models()
                scrape, refused = _scraped(client)
        except PtuneError as problem:
            update |= {self._state: error(str(problem)), self._tiles: "", self._models: ""}
            return update, Looked(urls, chosen)
        names = tuple(str(card["id"]) for card in cards)
        if names != before.models or named not in names:
            update[self._model] = gr.update(
                choices=list(names), value=named if named in names else _first(cards)
            )
        earlier = before.scrape if before.url == chosen else None
        load = load_of(scrape, earlier)
        update |= {
            self._state: _links(chosen, own) + note(refused),
            self._tiles: "" if refused else figures(load, writes=any(map(writes_text, cards))),
            self._models: models(cards, load),
        }
        return update, Looked(urls, chosen, names, None if refused else scrape)

    def _end(self, url: str | None) -> str:
        for one in served(self._studio.jobs):
            if one.url is not None and one.url == url:
                self._studio.jobs.stop(one.job.id)
                return note("Stopping: running answers go on to their end.")
        return error("This server was not started here: stop it where it was.")

    def _asked(
        self, url: str | None, key: str | None, model: str | None, text: str | None
    ) -> tuple[str, Any]:
        try:
            if not url or not model:
                raise UsageError(NONE_YET)
            if not text or not text.strip():
                raise UsageError("there is nothing to ask: write a text")
            with Client(url, key) as client:
                card = next((one for one in client.models() if one["id"] == model), None)
                if card is None:
                    raise UsageError(f"{url} serves no {model!r} any more")
                path, body = request_of(card, text)
                line = gr.update(value=curl(client.url, path, key=bool(key), body=body), visible=True)
                said, scores, left = client.answer(card, text)
        except PtuneError as problem:
            return error(str(problem)), gr.skip()
        told = (
            bars(scores, numbers=gives_numbers(card)) if scores else f"<p>{escape(said) or '(nothing)'}</p>"
        )
        return f'<div class="answer">{told}</div>{note(limits(left))}', line


def _scraped(client: Client) -> tuple[Scrape, str]:
    """A server's metrics, or why it does not tell them, as to a key without the scope metrics."""
    try:
        return client.scrape(), ""
    except PtuneError as problem:
        return Scrape(0.0), str(problem)


def _first(cards: Sequence[dict[str, Any]]) -> str | None:
    """An adapter, if there is one."""
    adapters = [str(card["id"]) for card in cards if card.get("parent") is not None]
    return next(iter([*adapters, *(str(card["id"]) for card in cards)]), None)


def _links(url: str, own: Served | None) -> str:
    page = own.page if own is not None else None
    link = f" · {opens(page, 'Open the page')}" if page else ""
    return f'<p class="note">Answers at <code>{escape(url)}/v1</code>{link}</p>'
