"""The settings beside a chat: system prompts, which the browser keeps for each model, and how tokens are chosen."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import gradio as gr

from .answer import SamplingControls, ServerError

ALTERNATIVES = 4
_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
_SHOWS = """(model) => ({
  __type__: "update", value: window.ptune.system(model), label: model ? `System prompt of ${model}` : "System prompt",
})"""


@dataclass(frozen=True)
class Controls:
    """The settings shared by all conversations."""

    temperature: gr.Slider
    top_p: gr.Slider
    max_tokens: gr.Slider
    seed: gr.Textbox
    tools: gr.Textbox
    chances: gr.Checkbox

    @classmethod
    def render(cls) -> Controls:
        temperature = gr.Slider(0, 2, 0.7, step=0.05, label="Temperature")
        top_p = gr.Slider(0.05, 1, 1, step=0.05, label="Top-p")
        max_tokens = gr.Slider(1, 2048, 256, step=1, label="Max tokens")
        seed = gr.Textbox(
            label="Seed", placeholder="Random", info="A whole number; the same one repeats an answer."
        )
        with gr.Accordion("More", open=False):
            tools = gr.Textbox(
                label="Tools", placeholder="None", lines=2, max_lines=8,
                info="A JSON list of functions, as OpenAI's. Write what a called one returned as your next message.",
            )  # fmt: skip
            chances = gr.Checkbox(False, label="Token probabilities", info="Below the newest answer.")
        return cls(temperature, top_p, max_tokens, seed, tools, chances)

    def inputs(self) -> list[Any]:
        return [self.temperature, self.top_p, self.max_tokens, self.seed, self.tools, self.chances]

    @staticmethod
    def read(
        temperature: float, top_p: float, max_tokens: int, seed: str, tools: str | None, chances: bool | None
    ) -> SamplingControls:
        """The values of `inputs`; None where a fold was never opened. Raises: ServerError."""
        if seed.strip() and not seed.strip().removeprefix("-").isdecimal():
            raise ServerError("The seed must be a whole number, or empty.")
        return SamplingControls(
            temperature,
            top_p,
            max_tokens,
            int(seed) if seed.strip() else None,
            _tools(tools or ""),
            ALTERNATIVES if chances else None,
        )


def _tools(written: str) -> str:
    """The tools as JSON of a list; "" for none. Raises: ServerError."""
    if not written.strip():
        return ""
    try:
        tools = json.loads(written)
    except (ValueError, RecursionError):
        tools = None
    tools = [tools] if isinstance(tools, dict) else tools
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        example = '[{"type": "function", "function": {"name": "weather", "parameters": {…}}}]'
        raise ServerError(f"The tools must be a JSON list of functions, as {example}, or empty.")
    # Short for the shape with the function inside
    whole = [tool if "type" in tool else {"type": "function", "function": tool} for tool in tools]
    return json.dumps(whole, ensure_ascii=False) if whole else ""


class SystemPrompts:
    """A system prompt for each column of a tab, that of the model that its picker has chosen."""

    def __init__(self, tab: gr.Tab, columns: int) -> None:
        self._tab = tab
        with gr.Column(elem_id=f"systems-{columns}", elem_classes="systems"):
            self.boxes = [
                gr.Textbox(label="System prompt", placeholder="None", lines=2, max_lines=8)
                for _ in range(columns)
            ]

    def follow(self, column: int, picker: gr.Dropdown) -> None:
        """Shows the prompt that the browser keeps for the picker's model, and keeps what is written."""
        box = self.boxes[column]
        gr.on(  # another tab may have changed it; no event of the server, which could come after what is typed then
            [picker.change, self._tab.select], None, picker, box, js=_SHOWS, **_QUIET
        )
        box.change(
            None,
            [picker, box],
            None,
            js="(model, prompt) => window.ptune.keep_system(model, prompt)",
            **_QUIET,
        )
