"""The chat page: a process of its own that talks to the server over HTTP, with tabs for what is served."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Any, Protocol

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read while gradio is imported

import gradio as gr
from fastapi import FastAPI

from ptune.config.tasks import tasks_of
from ptune.errors import PtuneError

from ..http.listen import Server, listen, url_of
from .answer import ServerError
from .classify import tabs as classifying
from .client import Client, ServedModels
from .controls import Controls, SystemPrompts
from .conversation import Conversation
from .head import HEAD, script
from .idle import seldom
from .keys import AskForKey, VisitorsKey
from .library import Library
from .process import ASK_VARIABLE
from .retrieval import Ranking, Recommending
from .security_policy import SecurityPolicy
from .style import CSS
from .text import heading
from .theme import theme
from .translate import Translating

ASK_AGAIN_S = 5
"""How often an open page checks whether the server answers, and what it serves."""
_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
UPLOAD_LIMIT = "8mb"  # of an image, as in the server
SCRIPTS = ("store.js", "keys.js", "copies.js")
_CHATS = ("Chat", "Side by side")


def run(
    server_url: str,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    api_key: str | None = None,
    ask: bool = False,
) -> int:
    """Serves the page until SIGTERM or Ctrl-C, and returns the exit code. Port 0 takes any free port.

    api_key: the key that the page sends for every visitor. ask: prompt each visitor for a key instead.

    Raises: PtuneError if the port is in use.
    """
    with listen(host, port) as listener:
        served = _first_look(Client(server_url, api_key))
        app = create_page(Client(server_url, api_key, VisitorsKey() if ask else None), served)
        if ask:
            app.add_middleware(AskForKey, server_url=server_url)
        name = "Chat page" if served is None or served.chats else "Page"
        url = url_of(listener)
        # An open page holds connections that never end, so there is nothing to wait for.
        server = Server(app, started=lambda: print(f"{name}: {url}", flush=True), flush_limit_s=1)
        server.run(sockets=[listener])
    return 0


def _first_look(client: Client) -> ServedModels | None:
    """What is served now, for the initial tabs; an open page keeps checking. None if the server does not answer."""
    try:
        return asyncio.run(client.served())
    except ServerError:
        return None


def create_page(client: Client, served: ServedModels | None = None) -> FastAPI:
    """The page as an app. served: what is served now, if known."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(SecurityPolicy)
    page = _page(client, served)
    page.queue(default_concurrency_limit=None, api_open=False)  # requests queue in the engine
    seldom(page)
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        theme=theme(),
        css=CSS,
        head=HEAD + "".join(script(name) for name in SCRIPTS),
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=UPLOAD_LIMIT,
    )
    return app


def _page(client: Client, served: ServedModels | None) -> gr.Blocks:
    chatting = served is None or served.chats
    first = "Chat" if served is None else _first_tab(served)
    with gr.Blocks(
        title="ptune", analytics_enabled=False, fill_width=True, delete_cache=(3600, 3600)
    ) as page:
        library = Library(visible=chatting)
        head = gr.HTML(elem_id="heading")
        with gr.Row(elem_id="page"):
            with gr.Column(scale=4, min_width=320), gr.Tabs(selected=first) as choice:
                chat_tabs = [gr.Tab(name, id=name, visible=chatting) for name in _CHATS]
                translating = Translating(client, served)
                encoding: list[_Tab] = [
                    translating,
                    *classifying(client, served), Recommending(client, served), Ranking(client, served)
                ]  # fmt: skip
            with gr.Column(scale=1, min_width=260, elem_id="settings", visible=chatting) as settings:
                gr.HTML("<h2>Settings</h2>", padding=False)
                systems = [SystemPrompts(tab, columns) for columns, tab in enumerate(chat_tabs, 1)]
                controls = Controls.render()
        chats = _chats(client, controls, chat_tabs, systems)
        library.connect(page, choice, dict(zip(_CHATS, chats, strict=True)))
        known = gr.State(None)

        async def look(before: ServedModels | str | None) -> Any:
            """Checks what is served, and updates the page only if that has changed."""
            try:
                now: ServedModels | str = await client.served()
            except ServerError as error:
                now = str(error)
            if now == before:
                return gr.skip()
            if isinstance(now, str):
                return {known: now, head: heading(now)}
            offers = _offers(now, encoding)
            for tab, conversation in zip(chat_tabs, chats, strict=True):
                offers[tab] = gr.update(visible=now.chats)
                offers |= conversation.offer(now) if now.chats else {}
            if now.chats != (before.chats if isinstance(before, ServedModels) else chatting):
                # Only then: a user who has left for another tab meanwhile stays there, without the settings of chat.
                offers |= {
                    settings: gr.update(visible=now.chats),
                    library.block: gr.update(visible=now.chats),
                    choice: gr.update(selected=_first_tab(now)),
                }
            return {known: now, head: heading(now), **offers}

        changing = [output for one in encoding for output in one.outputs]
        offered = [output for chat in chats for output in chat.offered]
        shown = [known, head, choice, settings, library.block, *chat_tabs, *offered, *changing]
        again = gr.Timer(ASK_AGAIN_S)
        gr.on([page.load, again.tick], look, known, shown, show_progress="hidden", api_visibility="private")
    return page


def _chats(
    client: Client, controls: Controls, tabs: Sequence[gr.Tab], systems: Sequence[SystemPrompts]
) -> list[Conversation]:
    """A conversation in each tab, with a column for each of its system prompts."""
    chats = []
    for tab, prompts in zip(tabs, systems, strict=True):
        with tab:
            chats.append(Conversation(client, controls, prompts, columns=len(prompts.boxes)))
    return chats


class _Tab(Protocol):
    """A tab other than chat."""

    tab: gr.Tab

    @property
    def outputs(self) -> list[Any]: ...

    def offer(self, served: ServedModels) -> dict[Any, Any]: ...


def _offers(served: ServedModels, tabs: Sequence[_Tab]) -> dict[Any, Any]:
    return {output: update for one in tabs for output, update in one.offer(served).items()}


def _first_tab(served: ServedModels) -> str:
    """The initial tab."""
    if served.chats:
        return "Chat"
    if not served.classifiers:
        return "Translate"
    first = served.classifiers[0]
    return "Recommend" if first.items else tasks_of(first.task)[0].tab


def main() -> int:
    """`python -m ptune_serve.ui.app SERVER_URL HOST PORT`: `serve` starts it, and closes its standard input to end it."""
    server_url, host, port = sys.argv[1:]

    def end_with_parent() -> None:
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        return run(server_url, host=host, port=int(port), ask=ASK_VARIABLE in os.environ)
    except PtuneError as error:
        print(f"No chat page: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    raise SystemExit(main())
