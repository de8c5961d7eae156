"""The tabs of an encoder's page: a text, entities, an image, and two adapters side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from ptune.config.tasks import tab_names
from ptune.formats.task_names import IMAGE_CLASSIFICATION, TEXT_CLASSIFICATION, TOKEN_CLASSIFICATION

from .answer import ServerError
from .client import Client, EncoderAdapter, ServedModels
from .labels import bars, marked, problem, waiting
from .pictures import examples

Updates = dict[Any, Any]


class Classifying:
    """One tab: an input, and a column for each adapter's output.

    tasks: of the adapters to choose from; the tab is shown if there is one for each column.
    """

    def __init__(
        self, client: Client, title: str, tasks: Sequence[str], *, columns: int = 1, shown: bool
    ) -> None:
        self._client, self._tasks, self._columns = client, tuple(tasks), columns
        self._image = IMAGE_CLASSIFICATION in tasks
        self._tags = TOKEN_CLASSIFICATION in tasks and TEXT_CLASSIFICATION not in tasks
        self._pickers: list[gr.Dropdown] = []
        self._results: list[gr.HTML] = []
        self.tab = gr.Tab(title, id=title, visible=shown)
        with self.tab:
            self._known = gr.State(())  # inside the tab: gradio counts anything between tabs as a tab
            with gr.Row(elem_classes="asking"):
                with gr.Column(min_width=280):
                    self._render_input()
                with gr.Column(min_width=280), gr.Row(elem_classes="columns"):
                    for _ in range(columns):
                        with gr.Column(min_width=200, elem_classes="answering"):
                            self._render_column()
        self._connect()

    def offer(self, served: ServedModels) -> Updates:
        """Fills the pickers, and shows the tab if there are adapters for it."""
        fitting = served.of(*self._tasks)
        visible = len(fitting) >= self._columns
        names = [one.name for one in fitting]
        updates: Updates = {self.tab: gr.update(visible=visible), self._known: fitting}
        for at, picker in enumerate(self._pickers):
            updates[picker] = gr.update(choices=names, value=names[at] if visible else None)
        return updates

    @property
    def outputs(self) -> list[Any]:
        """Components that `offer` can change."""
        return [self.tab, self._known, *self._pickers]

    def _render_input(self) -> None:
        if self._image:
            self._input: Any = gr.Image(
                type="filepath", sources=["upload", "clipboard"], label="Image", show_label=False, height=300,
                elem_classes="picture", buttons=[],
            )  # fmt: skip
        else:
            self._input = gr.Textbox(
                show_label=False, lines=5, max_lines=12, elem_classes="words",
                placeholder="Write or paste a text",
            )  # fmt: skip
        with gr.Row(elem_classes="under"):
            with gr.Row(elem_classes="examples"):
                self._chips = [gr.Button(Path(one).stem.capitalize(), size="sm") for one in self._examples()]
            with gr.Row(elem_classes="actions"):
                self._button = gr.Button(self._verb(), variant="primary", size="sm")

    def _render_column(self) -> None:
        self._pickers.append(
            gr.Dropdown([], label="Adapter", show_label=False, container=False, elem_classes="picker")
        )
        self._results.append(gr.HTML(waiting(self._invitation()), elem_classes="labels"))

    def _connect(self) -> None:
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        asking = {
            "fn": self._ask,
            "inputs": [self._input, self._known, *self._pickers],
            "outputs": self._results,
        }
        self._button.click(**asking, **quiet)
        for picker in self._pickers:
            picker.input(**asking, **quiet)
        if self._image:
            self._input.upload(**asking, **quiet)
            self._input.clear(self._invite, None, self._results, **quiet)
        else:
            self._input.submit(**asking, **quiet)
        for chip, example in zip(self._chips, self._examples(), strict=True):
            put: Callable[[], str] = partial(str, example)
            chip.click(put, None, self._input, **quiet).then(**asking, **quiet)

    async def _ask(
        self, value: str | None, known: Sequence[EncoderAdapter], *chosen: str | None
    ) -> list[str]:
        """The outputs of all chosen adapters, requested at the same time."""
        if not value or (not self._image and not value.strip()):
            return [problem(self._invitation())] * self._columns
        content: str | bytes = await asyncio.to_thread(Path(value).read_bytes) if self._image else value
        by_name = {one.name: one for one in known}
        return list(await asyncio.gather(*(self._say(content, by_name.get(name or "")) for name in chosen)))

    async def _say(self, content: str | bytes, classifier: EncoderAdapter | None) -> str:
        if classifier is None:
            return problem("Choose an adapter.")
        try:
            if classifier.problem == "tags":
                assert isinstance(content, str)
                return marked(await self._client.tag(classifier.name, content), classifier.labels)
            return bars(await self._client.classify(classifier.name, content), classifier)
        except ServerError as error:
            return problem(str(error))

    def _invite(self) -> list[str]:
        return [waiting(self._invitation())] * self._columns

    def _examples(self) -> Sequence[str]:
        """Drawings to try. Of texts there are none: a text of another task gets an answer that looks like a fault."""
        return examples() if self._image else ()

    def _verb(self) -> str:
        return "Find entities" if self._tags else "Classify"

    def _invitation(self) -> str:
        return "Choose an image, or try an example." if self._image else "Write a text as your data has them."


def tabs(client: Client, served: ServedModels | None) -> list[Classifying]:
    """All tabs for encoders; those without adapters are hidden."""

    def made(title: str, *tabs: str, columns: int = 1) -> Classifying:
        tasks = [name for tab in tabs or (title,) for name in tab_names(tab)]
        shown = served is not None and len(served.of(*tasks)) >= columns
        return Classifying(client, title, tasks, columns=columns, shown=shown)

    return [
        made("Text"),
        made("Entities"),
        made("Image"),
        made("Compare", "Text", "Entities", columns=2),
        made("Compare images", "Image", columns=2),
    ]
