"""The part of the tab Run that searches for better values of a recipe, and shows what was tried."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ptune.config.recipe import Recipe
from ptune.errors import PtuneError, UsageError
from ptune.studio.command_shown import command_line, shows
from ptune.studio.jobs.log import problem_in
from ptune.studio.run import searches
from ptune.studio.sheet import error, note
from ptune.studio.studio import QUIET, Studio

TRIALS = 10


class Searches:
    """A search that is begun here, and the trials of any."""

    def __init__(self, studio: Studio, recipe: gr.Dropdown) -> None:
        """recipe: the one that is chosen to train."""
        self._workspace, self._jobs = studio.workspace, studio.jobs
        self._recipe = recipe
        self._seen = gr.State(None)
        with gr.Accordion("Search for better values", open=False, elem_id="search-panel"):
            self._render_start()
        self._name = gr.Dropdown([], label="A search", visible=False, elem_id="searched")
        self._trouble = gr.HTML(elem_id="search-trouble")
        self._trials_shown = gr.HTML(elem_id="trials")
        with gr.Row(elem_classes="doing"):
            self._take = gr.Button("Take the best recipe", size="sm", visible=False, elem_id="take-best")
        self._taken = gr.HTML(elem_id="taken")
        self._connect(studio)

    def _render_start(self) -> None:
        gr.HTML(
            note(
                "Trains the recipe that is chosen to train again and again, with other values of these fields, and keeps the best."
            )
        )
        self._space = gr.Textbox(
            label="Fields and their values", placeholder="train.lr=log:1e-5..1e-3 method.r=4|8|16", elem_id="space", max_lines=3,
            info="LOW..HIGH, log:LOW..HIGH, or A|B|C",
        )  # fmt: skip
        with gr.Row(elem_classes="doing"):
            self._trials = gr.Number(TRIALS, label="Trials", precision=0, minimum=1, elem_id="trials-wanted")
            self._metric = gr.Dropdown(
                [(name.replace("_", " "), name) for name in searches.METRICS], value=searches.METRICS[0],
                label="Judged by", elem_id="judged-by",
            )  # fmt: skip
        with gr.Row(elem_classes="doing"):
            self._propose = gr.Button("Propose fields", size="sm")
            self._start = gr.Button("Search", variant="primary", size="sm", elem_id="start-search")
            self._stop = gr.Button("Stop the search", size="sm", elem_id="stop-search")
        self._told = gr.HTML(elem_id="search-told")
        self._line = command_line()

    def _connect(self, studio: Studio) -> None:
        shown = [self._seen, self._name, self._trouble, self._trials_shown, self._take]
        self._propose.click(self._proposes, self._recipe, [self._space, self._told], **QUIET)
        self._start.click(
            self._starts, [self._recipe, self._space, self._trials, self._metric], [self._told, self._line], **QUIET
        ).then(self.look, [self._name, self._seen], shown, **QUIET)  # fmt: skip
        self._stop.click(self._stops, self._recipe, self._told, **QUIET)
        self._name.input(self.look, [self._name, self._seen], shown, **QUIET)
        self._take.click(self._takes, self._name, [self._taken, self._recipe], **QUIET)
        self.looks_at, self.looked = [self._name, self._seen], shown

    def look(self, chosen: str | None, seen: tuple[Any, ...] | None) -> list[Any]:
        """The searches that there are, and the trials of the chosen one, where they have changed."""
        there = searches.names(self._workspace)
        name = chosen if chosen in there else next(iter(there), None)
        found = None if name is None else searches.document(self._workspace, name)
        html = "" if found is None else searches.shown(found)
        best = found is not None and found.get("best") is not None
        now = (there, name, self._failure(), html, best)
        if now == seen:
            return [gr.skip()] * len(self.looked)
        menu = gr.update(choices=there, value=name, visible=bool(there))
        return [now, menu, now[2], html, gr.update(visible=best)]

    def _failure(self) -> str:
        """Why the newest search of this page ended, if it failed."""
        job = next((one for one in reversed(self._jobs.all()) if one.kind == "tune"), None)
        if job is None or job.state != "failed":
            return ""
        return error(f"{job.name}: {problem_in(self._jobs.log(job.id)) or 'it failed and said nothing.'}")

    def _proposes(self, name: str | None) -> list[Any]:
        try:
            return [searches.proposed(Recipe.load(self._workspace.recipe(_chosen(name)))), ""]
        except PtuneError as problem:
            return [gr.skip(), error(str(problem))]

    def _starts(self, name: str | None, words: str, trials: float | None, metric: str) -> list[Any]:
        """Puts the search into the queue. One that was begun with the same fields goes on."""
        try:
            recipe = _chosen(name)
            command = searches.command(self._workspace, recipe, words, trials, metric)
            before = self._jobs.newest("tune", f"{recipe}-tune")
            if before is not None and before.state in ("waiting", "running"):
                raise UsageError(f"the search of {recipe} is {before.state} already.")
            self._jobs.add("tune", f"{recipe}-tune", command)
        except PtuneError as problem:
            return [error(str(problem)), shows(())]
        return [note(f"{recipe}-tune is in the queue: its trials appear below as they end."), shows(command)]

    def _stops(self, name: str | None) -> str:
        try:
            job = self._jobs.newest("tune", f"{_chosen(name)}-tune")
            if job is None:
                raise UsageError(f"no search of {name} was begun here.")
            if job.state not in ("waiting", "running"):
                raise UsageError(f"the search of {name} has ended.")
            self._jobs.stop(job.id)
        except PtuneError as problem:
            return error(str(problem))
        return note("The search ends after the running step; Search goes on with it.")

    def _takes(self, name: str | None) -> list[Any]:
        try:
            if not name:
                raise UsageError("There is no search yet.")
            taken = searches.take_best(self._workspace, name)
        except PtuneError as problem:
            return [error(str(problem)), gr.skip()]
        recipes = gr.update(choices=self._workspace.recipe_names(), value=taken)
        return [
            note(f"Written: recipes/{taken}.yaml. It is chosen to train: Train begins.", "good"),
            recipes,
        ]


def _chosen(name: str | None) -> str:
    """Raises: UsageError where no recipe is chosen."""
    if not name:
        raise UsageError("There is no recipe yet: make one on the tab Recipe, and choose it to train.")
    return name
