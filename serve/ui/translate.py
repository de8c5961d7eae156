"""The translation tab: a text on one side, its translation on the other."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from .answer import ServerError
from .client import Client, ServedModels

SOURCE = "Your password has been changed."
_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}

Updates = dict[Any, Any]


class Translating:
    """Two panes. Each line is translated separately, so that lines stay next to each other."""

    def __init__(self, client: Client, served: ServedModels | None) -> None:
        self._client = client
        self.tab = gr.Tab("Translate", id="Translate", visible=bool(served and served.translators))
        with self.tab, gr.Row(elem_classes="asking"):
            with gr.Column(min_width=280):
                self._source = gr.Textbox(
                    SOURCE, show_label=False, lines=10, max_lines=20, elem_classes="words",
                    placeholder="Write or paste a text; each line is translated by itself",
                )  # fmt: skip
                with gr.Row(elem_classes="under"):
                    self._picker = gr.Dropdown(
                        [], label="Adapter", show_label=False, container=False, elem_classes="picker"
                    )
                    with gr.Row(elem_classes="actions"):
                        self._button = gr.Button("Translate", variant="primary", size="sm")
            with gr.Column(min_width=280, elem_classes="answering"):
                self._target = gr.Textbox(
                    "", show_label=False, lines=10, max_lines=20, elem_classes="words translated", interactive=False,
                    placeholder="Translation", buttons=["copy"],
                )  # fmt: skip
                self._measure = gr.HTML(elem_classes="measure")
        asking: dict[str, Any] = {
            "fn": self._ask,
            "inputs": [self._source, self._picker],
            "outputs": [self._target, self._measure],
        }
        self._button.click(**asking, **_QUIET)
        self._picker.input(**asking, **_QUIET)

    @property
    def outputs(self) -> list[Any]:
        """Components that `offer` can change."""
        return [self.tab, self._picker]

    def offer(self, served: ServedModels) -> Updates:
        """Fills the picker, and shows the tab if anything served translates."""
        choices = [(one.label, one.name) for one in served.translators]
        picker = gr.update(choices=choices, value=choices[0][1] if choices else None)
        return {self.tab: gr.update(visible=bool(choices)), self._picker: picker}

    async def _ask(self, source: str, adapter: str | None) -> tuple[Any, str]:
        """The right pane, and the line below it as HTML."""
        lines = source.splitlines()
        texts = [line for line in lines if line.strip()]
        if not texts:
            return "", _problem("Write a text to translate.")
        if not adapter:
            return gr.skip(), _problem("Choose an adapter.")
        try:
            found, cut, seconds = await self._client.translate(adapter, texts)
        except ServerError as error:
            return gr.skip(), _problem(str(error))
        translations = iter(found)
        shown = "\n".join(next(translations) if line.strip() else "" for line in lines)
        more = f" · {cut} cut off" if cut else ""
        return shown, f'<span class="quiet">{seconds:.2f} s{more}</span>'


def _problem(message: str) -> str:
    return f'<span class="problem" role="alert">{escape(message)}</span>'
