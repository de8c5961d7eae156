"""A tab of the chat page: a conversation with one model, or with two side by side."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from .client import Client, Message, SamplingControls, ServedModels, ServerError, StreamedAnswer
from .style import CHAT_HEIGHT
from .text import measured, plain, shown_parts

EXAMPLES = ("Define: Patience", "What is a rainbow, in one sentence?", "Write two lines about the sea.")

History = list[Message]
Updates = dict[Any, Any]  # component -> its new value
_NOTHING: Updates = gr.skip()


@dataclass(frozen=True)
class Controls:
    """The settings shared by all conversations."""

    system: gr.Textbox
    temperature: gr.Slider
    top_p: gr.Slider
    max_tokens: gr.Slider
    seed: gr.Textbox

    @classmethod
    def render(cls) -> Controls:
        gr.HTML("<h2>Settings</h2>", padding=False)
        return cls(
            system=gr.Textbox(label="System prompt", placeholder="None", lines=3, max_lines=8),
            temperature=gr.Slider(0, 2, 0.7, step=0.05, label="Temperature"),
            top_p=gr.Slider(0.05, 1, 1, step=0.05, label="Top-p"),
            max_tokens=gr.Slider(1, 2048, 256, step=1, label="Max tokens"),
            seed=gr.Textbox(
                label="Seed", placeholder="Random", info="A whole number; the same one repeats an answer."
            ),
        )

    def inputs(self) -> list[Any]:
        return [self.system, self.temperature, self.top_p, self.max_tokens, self.seed]

    @staticmethod
    def read(
        system: str, temperature: float, top_p: float, max_tokens: int, seed: str
    ) -> tuple[History, SamplingControls]:
        """The values of `inputs`: the messages before a conversation, and its sampling. Raises: ServerError."""
        if seed.strip() and not seed.strip().removeprefix("-").isdecimal():
            raise ServerError("The seed must be a whole number, or empty.")
        before = [{"role": "system", "content": system}] if system.strip() else []
        return before, SamplingControls(temperature, top_p, max_tokens, int(seed) if seed.strip() else None)


class Conversation:
    """Columns that answer the same messages at the same time, each with its own model.

    The histories are separate from what the chatbots show: models read exactly what was written, the chatbots show a
    harmless version of it. Every question goes through `_asked`, whose change starts the answers, so that there is
    one event to stop.
    """

    def __init__(self, client: Client, controls: Controls, *, columns: int) -> None:
        self._client = client
        self._controls = controls
        self._histories = gr.State([[] for _ in range(columns)])
        self._asked = gr.State(None)  # (when, histories that end with a question)
        self._pickers: list[gr.Dropdown] = []
        self._chatbots: list[gr.Chatbot] = []
        self._measures: list[gr.HTML] = []
        with gr.Row(equal_height=True, elem_classes="columns"):
            for _ in range(columns):
                with gr.Column(min_width=260, elem_classes="answering"):
                    self._render_column()
        self._box = gr.Textbox(
            show_label=False,
            placeholder="Write a message" if columns == 1 else "Write a message to both",
            submit_btn=True,
            max_lines=8,
            autofocus=columns == 1,
            elem_classes="box",
        )
        with gr.Row(elem_classes="under"):
            with gr.Row(elem_classes="examples") as self._examples:
                self._chips = [gr.Button(example, size="sm") for example in EXAMPLES]
            with gr.Row(elem_classes="actions"):
                self._retry = gr.Button("Retry", size="sm")
                self._clear = gr.Button("New chat", size="sm")
        self._connect()

    def offer(self, served: ServedModels) -> Updates:
        """Fills the pickers with what is served. The last column selects an adapter; the first of two selects the base."""
        newest = served.models[-1]
        chosen = [newest] if len(self._pickers) == 1 else [served.models[0], newest]
        return {
            picker: gr.update(choices=list(served.models), value=model)
            for picker, model in zip(self._pickers, chosen, strict=True)
        }

    @property
    def pickers(self) -> list[gr.Dropdown]:
        return self._pickers

    def _render_column(self) -> None:
        self._pickers.append(
            gr.Dropdown([], label="Model", show_label=False, container=False, elem_classes="picker")
        )
        self._chatbots.append(
            gr.Chatbot(
                show_label=False,
                height=CHAT_HEIGHT,
                layout="bubble",
                editable="user",
                feedback_options=None,
                buttons=["copy"],
                latex_delimiters=[],
                allow_tags=False,
                sanitize_html=True,
                placeholder="Write a message below, or try an example.",
                elem_classes="chatbot",
            )
        )
        self._measures.append(gr.HTML(elem_classes="measure"))

    def _connect(self) -> None:
        shown = [self._histories, *self._chatbots, *self._measures, self._box]
        settings = [*self._pickers, *self._controls.inputs()]
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        answering = self._asked.change(self._answer, [self._asked, *settings], shown, **quiet)
        asking: dict[str, Any] = {"cancels": [answering], **quiet}
        begun = [self._asked, self._examples, *shown]
        self._box.submit(self._ask, [self._box, self._histories], begun, **asking)
        for chip, example in zip(self._chips, EXAMPLES, strict=True):
            chip.click(partial(self._ask, example), self._histories, begun, **asking)
        self._retry.click(self._ask_again, self._histories, begun, **asking)
        for chatbot in self._chatbots:
            chatbot.edit(self._ask_otherwise, self._histories, begun, **asking)
        self._clear.click(self._start_anew, None, begun, **asking)
        stopped = [self._histories, *self._chatbots, self._box]
        self._box.stop(self._stop_thinking, self._histories, stopped, **asking)

    def _ask(self, text: str, histories: list[History]) -> Updates:
        if not text.strip():
            return _NOTHING
        # A question without an answer is dropped, because many templates require alternating roles.
        question = {"role": "user", "content": text}
        return self._begin([[*_until(history, "assistant"), question] for history in histories])

    def _ask_again(self, histories: list[History]) -> Updates:
        questions = [_until(history, "user") for history in histories]
        return self._begin(questions) if all(questions) else _NOTHING

    def _ask_otherwise(self, edit: gr.EditData, histories: list[History]) -> Updates:
        question = {"role": "user", "content": plain(edit.value)}
        return self._begin([[*_before_shown(history, edit.index), question] for history in histories])

    def _begin(self, questions: list[History]) -> Updates:
        return {
            self._asked: (
                time.monotonic_ns(),
                questions,
            ),  # with the time, so that a retry counts as a change
            self._examples: gr.update(visible=False),
            self._box: gr.update(value="", submit_btn=False, stop_btn=True),
            **self._shown(questions, [StreamedAnswer() for _ in questions]),
        }

    def _start_anew(self) -> Updates:
        empty: list[History] = [[] for _ in self._chatbots]
        return {
            self._examples: gr.update(visible=True),
            self._box: self._ready(),
            **self._shown(empty, [None for _ in empty]),
        }

    def _stop_thinking(self, histories: list[History]) -> Updates:
        """What was thought is folded, although no answer came of it."""
        ended = [
            [{name: text for name, text in one.items() if name != "thinking"} for one in history]
            for history in histories
        ]
        return {**self._messages(ended), self._box: self._ready()}

    def _ready(self) -> Any:
        return gr.update(submit_btn=True, stop_btn=False)

    async def _answer(
        self, asked: tuple[int, list[History]], *settings: Any
    ) -> AsyncGenerator[Updates, None]:
        _, questions = asked
        models = [model or "base" for model in settings[: len(questions)]]
        try:
            before, sampling = Controls.read(*settings[len(questions) :])
        except ServerError as error:
            yield {
                **self._shown(questions, [StreamedAnswer(error=str(error)) for _ in questions]),
                self._box: self._ready(),
            }
            return
        conversations = [[*before, *question] for question in questions]
        async with contextlib.aclosing(self._client.answers(models, conversations, sampling)) as growing:
            async for answers in growing:
                histories = [
                    [*question, answer.message] if answer.text or answer.reasoning else question
                    for question, answer in zip(questions, answers, strict=True)
                ]
                yield self._shown(histories, answers)
        yield {self._box: self._ready()}

    def _messages(self, histories: list[History]) -> Updates:
        updates: Updates = {self._histories: histories}
        for chatbot, history in zip(self._chatbots, histories, strict=True):
            updates[chatbot] = [part for message in history for part in shown_parts(message)]
        return updates

    def _shown(self, histories: list[History], answers: Sequence[StreamedAnswer | None]) -> Updates:
        updates = self._messages(histories)
        for measure, answer in zip(self._measures, answers, strict=True):
            updates[measure] = "" if answer is None else measured(answer)
        return updates


def _before_shown(history: History, index: int) -> History:
    """The messages before the one that is shown at an index; one that was thought about is shown as two."""
    shown = 0
    for place, message in enumerate(history):
        if shown >= index:
            return history[:place]
        shown += len(shown_parts(message))
    return history


def _until(history: History, role: str) -> History:
    """The history up to and including the last message of a role."""
    end = len(history)
    while end and history[end - 1]["role"] != role:
        end -= 1
    return history[:end]
