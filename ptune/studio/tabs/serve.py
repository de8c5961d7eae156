"""The tab Serve: the servers that run, what is asked of them, and an answer from one of them."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from ptune.errors import PtuneError, UsageError
from ptune.studio.exposition import Scrape
from ptune.studio.load import load_of
from ptune.studio.load_tables import figures, keys, limits, models
from ptune.studio.servers import Client, Served, curl, request_of, served
from ptune.studio.sheet import error, note
from ptune.studio.studio import LOOK_AGAIN_S, QUIET, Studio
from ptune.studio.tabs.command import command_line, shows

NONE_YET = "No server runs here: start one in the tab Ship, or name another's address."


@dataclass(frozen=True)
class Looked:
    """The last look at a server."""

    url: str
    scrape: Scrape


class Serve:
    """Renders the tab."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        with gr.Tab("Serve", id="serve") as self.tab:
            with gr.Row(elem_classes="pick"):
                self.server = gr.Dropdown(
                    [], label="Server", elem_id="serve-server", allow_custom_value=True, interactive=True,
                    info="one of this studio's, or an address", scale=3,
                )  # fmt: skip
                self.key = gr.Textbox(
                    label="Key, if it asks for one", type="password", elem_id="serve-key", scale=2
                )
                stop = gr.Button("Stop the server", elem_id="serve-stop", visible=False, scale=1)
            state = gr.HTML(elem_id="serve-state")
            command = command_line("Started with")
            tiles = gr.HTML(elem_id="serve-tiles")
            table = gr.HTML(elem_id="serve-models")
            of_keys = gr.HTML(elem_id="serve-keys-table")
            with gr.Accordion("Ask it", open=True, elem_id="serve-ask"):
                with gr.Row(elem_classes="pick"):
                    model = gr.Dropdown([], label="Model", elem_id="ask-model", interactive=True, scale=1)
                    text = gr.Textbox(label="Text", elem_id="ask-text", lines=2, scale=3)
                ask = gr.Button("Ask", variant="primary", elem_id="ask-do")
                asked_with, answer = command_line("The same with curl"), gr.HTML(elem_id="ask-answer")
        last = gr.State(None)
        place = [self.server, self.key]
        shown = [self.server, stop, state, command, tiles, table, of_keys, model, last]

        def look(chosen: str | None, key: str, named: str | None, before: Looked | None) -> Any:
            found = served(studio.jobs)
            urls = [one.url for one in found if one.url]
            url = chosen or next(iter(urls), None)
            own = next((one for one in found if one.url is not None and one.url == url), None)
            update = {
                self.server: gr.update(choices=urls, value=url)
                if not chosen or urls
                else gr.update(choices=urls),
                stop: gr.update(visible=own is not None),
                command: shows(own.job.command if own else ()),
                of_keys: keys(own.keys) if own else "",
            }
            if url is None:
                starting = any(one.url is None for one in found)
                return {
                    **update,
                    state: note("Starting …" if starting else NONE_YET),
                    tiles: "",
                    table: "",
                    last: None,
                }
            try:
                with Client(url, key or "") as client:
                    cards = client.models()
                    try:
                        scrape = client.scrape()
                    except PtuneError as problem:  # a key without the scope metrics
                        return {
                            **update,
                            state: note(str(problem)),
                            tiles: "",
                            model: self._named(cards, named),
                        }
            except PtuneError as problem:
                return {**update, state: error(str(problem)), tiles: "", table: "", last: None}
            earlier = before.scrape if before is not None and before.url == url else None
            load = load_of(scrape, earlier)
            return {
                **update,
                state: _links(url, own),
                tiles: figures(load),
                table: models(cards, load),
                model: self._named(cards, named),
                last: Looked(url, scrape),
            }

        looked = ([*place, model, last], shown)
        gr.on([studio.page.load, gr.Timer(LOOK_AGAIN_S).tick, self.tab.select], look, *looked, **QUIET)
        gr.on([self.server.input, self.key.submit], look, *looked, **QUIET)
        stop.click(self._stop, self.server, state, **QUIET)
        gr.on([ask.click, text.submit], self._ask, [*place, model, text], [answer, asked_with], **QUIET)

    @staticmethod
    def _named(cards: list[dict[str, Any]], named: str | None) -> Any:
        """The menu of models, an adapter first."""
        names = [str(card["id"]) for card in cards]
        first = next(
            (str(card["id"]) for card in cards if card.get("parent") is not None), next(iter(names), None)
        )
        return gr.update(choices=names, value=named if named in names else first)

    def _stop(self, url: str | None) -> str:
        for one in served(self._studio.jobs):
            if one.url is not None and one.url == url:
                self._studio.jobs.stop(one.job.id)
                return note("Stopping: running answers go on to their end.")
        return error("This server was not started here: stop it where it was.")

    def _ask(self, url: str | None, key: str, model: str | None, text: str) -> tuple[str, Any]:
        try:
            if not url or not model:
                raise UsageError(NONE_YET)
            if not text.strip():
                raise UsageError("there is nothing to ask: write a text")
            with Client(url, key or "") as client:
                card = next((one for one in client.models() if one["id"] == model), None)
                if card is None:
                    raise UsageError(f"{url} serves no {model!r} any more")
                path, body = request_of(card, text)
                line = gr.update(value=curl(client.url, path, key=bool(key), body=body), visible=True)
                said, left = client.answer(card, text)
        except PtuneError as problem:
            return error(str(problem)), gr.skip()
        return f'<div class="answer"><p>{escape(said) or "(nothing)"}</p></div>{note(limits(left))}', line


def _links(url: str, own: Served | None) -> str:
    page = own.page if own is not None else None
    chat = f' · <a href="{escape(page)}" target="_blank" rel="noopener">its chat page</a>' if page else ""
    return f'<p class="note">Answers at <code>{escape(url)}/v1</code>{chat}</p>'
