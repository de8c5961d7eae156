"""The studio's page: a process of its own, which trains nothing itself, so that the page answers while a job runs."""

from __future__ import annotations

import logging
import os
from html import escape
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read while gradio is imported

import gradio as gr
from fastapi import FastAPI

from ptune.errors import UsageError
from ptune.formats.whole_write import write_text
from ptune.studio import heart, sheet
from ptune.studio.data import editor
from ptune.studio.data.tab import Data
from ptune.studio.doors import AskForKey, KnownHosts, SameOrigin
from ptune.studio.jobs.finished_runs import finished_runs
from ptune.studio.jobs.queue import Job, Jobs
from ptune.studio.judge import confusion, thumbnails
from ptune.studio.judge.tab import Judge
from ptune.studio.looks import CSS as OWN_CSS
from ptune.studio.recipe.tab import IN_TURN, Recipe
from ptune.studio.run.tab import Runs
from ptune.studio.serve.tab import Serve
from ptune.studio.ship.downloads import routes
from ptune.studio.ship.tab import Ship
from ptune.studio.studio import QUIET, Studio
from ptune.studio.workspace import Workspace
from ptune_serve.access.auth import ApiKeys
from ptune_serve.http.listen import Server, listen, local_names, url_of
from ptune_serve.ui.head import HEAD
from ptune_serve.ui.idle import seldom
from ptune_serve.ui.security_policy import SecurityPolicy
from ptune_serve.ui.style import CSS
from ptune_serve.ui.theme import theme

UPLOAD_LIMIT = "2gb"


def run(
    folder: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 7870,
    api_key_file: Path | None = None,
    ready_file: Path | None = None,
) -> int:
    """Serves the page until SIGTERM or Ctrl-C, and returns the exit code. Port 0 takes any free port.

    Raises: UsageError if other machines could use the studio without a key; PtuneError if the port is in use.
    """
    keys = _keys(api_key_file)
    workspace = Workspace(folder)
    with listen(host, port) as listener:
        names = local_names(host, listener)
        if not keys and not names:
            raise UsageError(
                f"--host {host} lets other machines run commands here: say --api-key-file too, with a key of scope admin"
            )
        app = create_page(workspace, keys=keys, hosts=frozenset() if keys else names)
        url = url_of(listener)

        def started() -> None:
            print(f"Studio: {url}", flush=True)
            if ready_file is not None:
                write_text(ready_file, f"{url}\n")

        # An open page holds connections that never end, so there is nothing to wait for.
        server = Server(app, started=started, flush_limit_s=1)
        # What goes wrong outside of a handler reaches the page as "Internal Server Error" alone.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        server.run(sockets=[listener])
    return 0


def _keys(file: Path | None) -> ApiKeys:
    if file is None:
        return ApiKeys()
    keys = ApiKeys.read(file)
    if not keys:
        raise UsageError(f"{file} holds no key")
    return keys


def create_page(
    workspace: Workspace, *, keys: ApiKeys | None = None, hosts: frozenset[str] = frozenset()
) -> FastAPI:
    """The page as an app. keys: one of which visitors need. hosts: by which names alone it answers; empty: any."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(SecurityPolicy)
    app.add_middleware(SameOrigin)
    if keys:
        app.add_middleware(AskForKey, keys=keys)
    if hosts:
        app.add_middleware(KnownHosts, names=hosts)
    app.include_router(routes(workspace))
    page = build(workspace)
    page.queue(default_concurrency_limit=None, api_open=False)
    seldom(page)
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        theme=theme(),
        head=HEAD,
        css=CSS + OWN_CSS + sheet.CSS + heart.CSS + confusion.CSS + thumbnails.CSS + editor.CSS,
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=UPLOAD_LIMIT,
    )
    return app


def build(workspace: Workspace) -> gr.Blocks:
    """The page's components."""
    with gr.Blocks(title="ptune studio", analytics_enabled=False, fill_width=True) as page:
        head = gr.HTML(elem_id="heading")
        with gr.Column(elem_id="page"), gr.Tabs(elem_id="tabs") as tabs:
            studio = Studio(workspace, Jobs(workspace), page, tabs)
            data, recipe, runs = Data(studio), Recipe(studio), Runs(studio)
            judge, ship = Judge(studio), Ship(studio)
            Serve(studio)
        leads(studio, data.chosen, data.ready, recipe, IN_TURN)
        leads(studio, recipe.training, recipe.ready, runs)
        takes(studio, runs.judge.click, runs.chosen, judge)
        takes(studio, runs.ship.click, runs.chosen, ship)
        takes(studio, judge.export.click, judge.run, ship)
        again = heart.heart()
        page.load(lambda: opens_on(studio), None, tabs, **QUIET)

        def look() -> str:
            studio.jobs.advance()  # a runner that was killed starts nothing after it
            return heading(workspace.folder, studio.jobs.all())

        again.tick(look, None, head, **heart.LOOK)
    return page


def leads(studio: Studio, event: Any, ready: gr.State, tab: Any, looking: dict[str, Any] = QUIET) -> None:
    """After the event, if it went well, the page goes to a tab, which looks at what there is now. looking: options of that."""

    def go(went: bool) -> Any:
        return gr.update(selected=tab.tab.id) if went else gr.skip()

    event.then(go, ready, studio.tabs, **QUIET).then(tab.look, tab.looks_at, tab.looked, **looking)


def takes(studio: Studio, event: Any, chosen: gr.Dropdown, tab: Any) -> None:
    """At the event the page goes to a tab, which shows the chosen run, or the first of several.

    It gets the menu, too: a tab that was never open does not know a run that is new, and gradio refuses it.
    """

    def go(names: list[str] | str | None, before: str | None) -> list[Any]:
        finished = finished_runs(studio.workspace)
        name = names if isinstance(names, str) else next(iter(names or ()), None)
        if name not in finished or name == before:
            shown = [gr.skip() for _ in tab.taken]
        else:
            shown = tab.take(gr.update(choices=finished, value=name))
        return [*shown, gr.update(selected=tab.tab.id)]

    event(go, [chosen, tab.run], [*tab.taken, studio.tabs], **QUIET)


def opens_on(studio: Studio) -> Any:
    """The tab Run while something trains; else the first one."""
    trains = any(job.kind == "train" and job.state == "running" for job in studio.jobs.all())
    return gr.update(selected="run") if trains else gr.skip()


def heading(folder: Path, jobs: list[Job]) -> str:
    """The folder, what runs in it, and how many jobs wait."""
    running = " · ".join(f"{job.kind} <b>{escape(job.name)}</b>" for job in jobs if job.state == "running")
    waiting = sum(job.state == "waiting" for job in jobs)
    queue = f" · {waiting} waiting" if waiting else ""
    where = f'<b title="{escape(str(folder))}">{escape(folder.name or str(folder))}</b>'
    return f"<h1>ptune studio</h1><p>{where} · {running or 'nothing runs'}{queue}</p>"
