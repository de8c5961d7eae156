"""The tabs for recommendation (a history -> items) and ranking (texts, ordered by relevance to a query)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from ptune.config.tasks import tab_names

from .answer import ServerError
from .client import Client, EncoderAdapter, ServedModels
from .labels import problem, ranked, recommended, waiting

QUERY = "a place to sleep"
TEXTS = (
    "The hotel has forty quiet rooms.\nThe train to the coast leaves at ten.\nHis bed stood under the window."
)
_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}

Updates = dict[Any, Any]
Items = dict[str, str]  # item -> title


class Recommending:
    """A history of items, chosen by title, and recommendations for it."""

    def __init__(self, client: Client, served: ServedModels | None) -> None:
        self._client = client
        self.tab = gr.Tab("Recommend", id="Recommend", visible=bool(served and _recommenders(served)))
        with self.tab:
            self._titles = gr.State({})  # of the chosen items, as the choices change while typing
            with gr.Row(elem_classes="asking"):
                with gr.Column(min_width=280):
                    self._history = gr.Dropdown(
                        [], value=[], multiselect=True, allow_custom_value=True, label="What somebody has",
                        info="Type words of a title and choose an item; Enter takes the words themselves as a title.",
                        elem_classes="history",
                    )  # fmt: skip
                with gr.Column(min_width=280, elem_classes="answering"):
                    self._picker = gr.Dropdown(
                        [], label="Adapter", show_label=False, container=False, elem_classes="picker"
                    )
                    self._result = gr.HTML(waiting(_CHOOSE), elem_classes="labels")
        self._connect()

    @property
    def outputs(self) -> list[Any]:
        """Components that `offer` can change."""
        return [self.tab, self._picker]

    def offer(self, served: ServedModels) -> Updates:
        """Fills the picker, and shows the tab if there are adapters with items."""
        names = [one.name for one in _recommenders(served)]
        picker = gr.update(choices=names, value=names[0] if names else None)
        return {self.tab: gr.update(visible=bool(names)), self._picker: picker}

    def _connect(self) -> None:
        looking = {"inputs": [self._history, self._titles, self._picker]}
        looking |= {"outputs": [self._history, self._titles]}
        self._history.focus(self._look, **looking, **_QUIET)
        self._history.key_up(self._type, **looking, **_QUIET, trigger_mode="always_last")
        asking: dict[str, Any] = {
            "fn": self._ask,
            "inputs": [self._history, self._titles, self._picker],
            "outputs": self._result,
        }
        self._history.change(**asking, **_QUIET)  # `input` does not fire for words added by Enter
        self._picker.input(**asking, **_QUIET)

    async def _look(self, chosen: list[str] | None, titles: Items, adapter: str | None) -> Any:
        return await self._offered("", chosen, titles, adapter)

    async def _type(
        self, chosen: list[str] | None, titles: Items, adapter: str | None, typed: gr.KeyUpData
    ) -> Any:
        return await self._offered(typed.input_value or "", chosen, titles, adapter)

    async def _offered(self, words: str, chosen: list[str] | None, titles: Items, adapter: str | None) -> Any:
        """The choices for the typed words, and the titles of all chosen items and choices."""
        try:
            found = await self._client.items(adapter, words) if adapter else []
        except ServerError:
            return gr.skip(), gr.skip()
        kept = {item: titles[item] for item in chosen or () if item in titles}
        known = {**kept, **{item: title for title, item in found}}
        return gr.update(choices=[(title, item) for item, title in known.items()]), known

    async def _ask(self, chosen: list[str] | None, titles: Items, adapter: str | None) -> str:
        if not chosen:
            return waiting(_CHOOSE)
        if not adapter:
            return problem("Choose an adapter.")
        by_title = {title: item for item, title in titles.items()}  # typing a full title selects its item
        history = [one if one in titles else by_title.get(one, {"title": one}) for one in chosen]
        try:
            return recommended(*await self._client.recommend(adapter, history))
        except ServerError as error:
            return problem(str(error))


class Ranking:
    """A query and lines of text, ordered by a reranker, or by the cosine of embeddings."""

    def __init__(self, client: Client, served: ServedModels | None) -> None:
        self._client = client
        self.tab = gr.Tab("Rank", id="Rank", visible=bool(served and served.of(*tab_names("Rank"))))
        with self.tab, gr.Row(elem_classes="asking"):
            with gr.Column(min_width=280):
                self._query = gr.Textbox(QUERY, label="Query", max_lines=4)
                self._texts = gr.Textbox(TEXTS, label="Texts, one a line", lines=6, max_lines=14)
                with gr.Row(elem_classes="under"), gr.Row(elem_classes="actions"):
                    self._button = gr.Button("Rank", variant="primary", size="sm")
            with gr.Column(min_width=280, elem_classes="answering"):
                self._picker = gr.Dropdown(
                    [], label="Adapter", show_label=False, container=False, elem_classes="picker"
                )
                self._result = gr.HTML(waiting(_WRITE), elem_classes="labels")
        asking: dict[str, Any] = {
            "fn": self._ask,
            "inputs": [self._query, self._texts, self._picker],
            "outputs": self._result,
        }
        self._button.click(**asking, **_QUIET)
        self._query.submit(**asking, **_QUIET)
        self._picker.input(**asking, **_QUIET)

    @property
    def outputs(self) -> list[Any]:
        """Components that `offer` can change."""
        return [self.tab, self._picker]

    def offer(self, served: ServedModels) -> Updates:
        """Fills the picker and shows the tab, where something is served that ranks."""
        names = [one.name for one in served.of(*tab_names("Rank"))]
        picker = gr.update(choices=names, value=names[0] if names else None)
        return {self.tab: gr.update(visible=bool(names)), self._picker: picker}

    async def _ask(self, query: str, texts: str, adapter: str | None) -> str:
        lines = [line.strip() for line in texts.splitlines() if line.strip()]
        if not query.strip() or not lines:
            return problem(_WRITE)
        if not adapter:
            return problem("Choose an adapter.")
        try:
            return ranked(await self._client.rank(adapter, query, lines))
        except ServerError as error:
            return problem(str(error))


_CHOOSE = "Choose items that somebody has."
_WRITE = "Write a query, and texts to put in order."


def _recommenders(served: ServedModels) -> Sequence[EncoderAdapter]:
    return [one for one in served.of(*tab_names("Recommend")) if one.items]
