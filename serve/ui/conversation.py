"""A tab of the chat page: a conversation with one model, or with two side by side."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from .answer import ServerError, StreamedAnswer
from .chosen_images import data_uri
from .client import Client, ServedModels
from .controls import Controls, SystemPrompts
from .maths import KATEX
from .neutral import plain
from .shown import Place, picture, shown, verdicts
from .style import CHAT_HEIGHT
from .text import measured, named, problem
from .thread import Thread
from .token_chances import chances
from .training_rows import sent_messages

KEEP_S = 2.0
"""How often a growing answer is kept in the browser, for whoever leaves the page meanwhile."""
EXAMPLES = ("Define: Patience", "What is a rainbow, in one sentence?", "Write two lines about the sea.")

Updates = dict[Any, Any]  # component -> its new value
_NOTHING: Updates = gr.skip()
_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


class Conversation:
    """Columns that answer the same questions at the same time, each with its own model.

    The thread is separate from what the chatbots show: models read exactly what was written, the chatbots show a
    harmless version of it. Every question goes through `_asked`, whose change starts the answers, so that there is
    one event to stop. `kept` is the thread as JSON whenever the browser has to keep it.
    """

    def __init__(self, client: Client, controls: Controls, systems: SystemPrompts, *, columns: int) -> None:
        self._client = client
        self._controls = controls
        self._systems = systems
        self.thread = gr.State(Thread())
        self.kept = gr.Textbox(elem_classes="unseen")
        self._asked = gr.State(None)  # (when, thread that ends with a question)
        self._see = gr.State(frozenset())  # the models that take images
        self._pickers: list[gr.Dropdown] = []
        self._chatbots: list[gr.Chatbot] = []
        self._measures: list[gr.HTML] = []
        self._chances: list[gr.HTML] = []
        with gr.Row(equal_height=True, elem_classes="columns"):
            for _ in range(columns):
                with gr.Column(min_width=260, elem_classes="answering"):
                    self._render_column()
        self._box = gr.MultimodalTextbox(
            show_label=False,
            placeholder="Write a message" if columns == 1 else "Write a message to both",
            sources=[],
            file_types=["image"],
            file_count="multiple",
            max_plain_text_length=10_000_000,
            submit_btn=True,
            max_lines=8,
            autofocus=columns == 1,
            elem_classes="box",
        )
        self._render_under()
        self._connect()

    @property
    def columns(self) -> int:
        return len(self._chatbots)

    @property
    def pickers(self) -> list[gr.Dropdown]:
        return self._pickers

    @property
    def offered(self) -> list[Any]:
        """Components that `offer` can change."""
        return [*self._pickers, self._see, self._box]

    @property
    def outputs(self) -> list[Any]:
        """Components that `show` can change."""
        shown_in = [*self._chatbots, *self._measures, *self._chances]
        return [self.thread, *shown_in, self._box, self._examples, self._branching, self._branch]

    def offer(self, served: ServedModels) -> Updates:
        """Fills the pickers with what is served. The last column selects an adapter; the first of two selects the base."""
        newest = served.models[-1]
        chosen = [newest] if self.columns == 1 else [served.models[0], newest]
        pickers = {
            picker: gr.update(choices=list(served.models), value=model)
            for picker, model in zip(self._pickers, chosen, strict=True)
        }
        return {**pickers, self._see: served.see, self._box: _takes_images(served.see, *chosen)}

    def show(self, thread: Thread) -> Updates:
        """Another conversation in place of this one."""
        last = thread.turns[thread.at].answers if thread.at is not None else (None,) * self.columns
        told = [named(answer) for answer in last]
        return {
            **self._messages(thread),
            **dict(zip(self._measures, told, strict=True)),
            **dict.fromkeys(self._chances, ""),
            self._examples: gr.update(visible=not thread.turns),
            self._box: self._ready(),
        }

    def _render_column(self) -> None:
        self._pickers.append(
            gr.Dropdown([], label="Model", show_label=False, container=False, elem_classes="picker")
        )
        self._chatbots.append(
            gr.Chatbot(
                show_label=False,
                height=CHAT_HEIGHT,
                layout="bubble",
                editable="all",
                feedback_options=("Like", "Dislike"),
                buttons=["copy"],
                latex_delimiters=KATEX,
                allow_tags=False,
                sanitize_html=True,
                placeholder="Write a message below, or try an example.",
                elem_classes="chatbot",
            )
        )
        self._measures.append(gr.HTML(elem_classes="measure"))
        self._chances.append(gr.HTML(elem_classes="chances-of"))

    def _render_under(self) -> None:
        with gr.Row(elem_classes="under"):
            with gr.Row(elem_classes="examples") as self._examples:
                self._chips = [gr.Button(example, size="sm") for example in EXAMPLES]
            with gr.Row(elem_classes="branches", visible=False) as self._branching:
                self._earlier = gr.Button("‹ Previous", size="sm")
                self._branch = gr.HTML(elem_classes="quiet")
                self._later = gr.Button("Next ›", size="sm")
            with gr.Row(elem_classes="actions"):
                self._retry = gr.Button("Retry", size="sm")
                self._clear = gr.Button("New chat", size="sm")

    def _connect(self) -> None:
        settings = [*self._pickers, *self._systems.boxes, *self._controls.inputs()]
        begun = [self._asked, self.kept, *self.outputs]
        self.answering = self._asked.change(
            self._answer, [self._asked, *settings], [self.kept, *self.outputs], **_QUIET
        )
        asking: dict[str, Any] = {"cancels": [self.answering], **_QUIET}
        self._box.submit(self._ask, [self._box, self.thread], begun, **asking)
        for chip, example in zip(self._chips, EXAMPLES, strict=True):
            chip.click(partial(self._ask, {"text": example, "files": []}), self.thread, begun, **asking)
        self._retry.click(self._ask_again, self.thread, begun, **asking)
        for column, chatbot in enumerate(self._chatbots):
            # A bubble of several messages sends an event for each when it is edited.
            chatbot.edit(self._edit(column), self.thread, begun, trigger_mode="multiple", **asking)
            chatbot.like(self._judge(column), self.thread, [self.kept, *self.outputs], **_QUIET)
        self._clear.click(self._start_anew, None, begun, **asking)
        self._box.stop(self._stop, self.thread, begun, **asking)
        self._earlier.click(partial(self._step, -1), self.thread, begun, **asking)
        self._later.click(partial(self._step, 1), self.thread, begun, **asking)
        for column, picker in enumerate(self._pickers):
            self._systems.follow(column, picker)
            picker.input(_takes_images, [self._see, *self._pickers], self._box, **_QUIET)

    def _ask(self, written: dict[str, Any], thread: Thread) -> Updates:
        if not written["text"].strip() and not written["files"]:
            return _NOTHING
        try:
            images = [data_uri(Path(file)) for file in written["files"]]
        except ServerError as error:
            return dict.fromkeys(self._measures, problem(str(error)))
        for file in written["files"]:
            Path(file).unlink(missing_ok=True)
        return self._begin(thread.asked(written["text"], images, columns=self.columns))

    def _ask_again(self, thread: Thread) -> Updates:
        return _NOTHING if thread.at is None else self._begin(thread.asked_again())

    def _edit(self, column: int) -> Any:
        def edit(edited: gr.EditData, thread: Thread) -> Updates:
            """Another question asks it in a branch of its own; another answer is a correction."""
            place, text = _place(thread, column, edited.index), plain(str(edited.value))
            if place is None or place.kind in ("thought", "call"):
                return _NOTHING
            turn = thread.turns[place.turn]
            if place.kind == "question":
                return self._begin(
                    thread.asked(text, turn.images, columns=self.columns, instead_of=place.turn)
                )
            answer = turn.answers[column]
            assert answer is not None
            correction = text if text.strip() and text != answer.text else None
            return self._changed(thread.settled().judged(place.turn, column, correction=correction))

        return edit

    def _judge(self, column: int) -> Any:
        def judge(judged: gr.LikeData, thread: Thread) -> Updates:
            place = _place(thread, column, judged.index)
            if place is None:
                return _NOTHING
            liked = judged.liked if isinstance(judged.liked, bool) else None  # "" takes the thumb away
            judged_thread = thread.judged(place.turn, column, liked=liked)
            return {**self._messages(judged_thread), self.kept: judged_thread.model_dump_json()}

        return judge

    def _begin(self, thread: Thread) -> Updates:
        return {
            # With the time, so that a retry counts as a change
            self._asked: (time.monotonic_ns(), thread),
            self.kept: thread.model_dump_json(),
            **self._shown(thread, [StreamedAnswer()] * self.columns),
            self._examples: gr.update(visible=False),
            self._box: gr.update(value={"text": "", "files": []}, submit_btn=False, stop_btn=True),
        }

    def _start_anew(self) -> Updates:
        none = f"none {time.monotonic_ns()}"  # another text each time, so that it counts as a change
        return {**self.show(Thread()), self.kept: none}

    def _stop(self, thread: Thread) -> Updates:
        """What was thought is folded, although no answer came of it."""
        settled = thread.settled()
        return {**self._messages(settled), self.kept: settled.model_dump_json(), self._box: self._ready()}

    def _step(self, steps: int, thread: Thread) -> Updates:
        return self._changed(thread.settled().stepped(steps))

    def _changed(self, thread: Thread) -> Updates:
        return {**self.show(thread), self.kept: thread.model_dump_json()}

    def _ready(self) -> Any:
        return gr.update(submit_btn=True, stop_btn=False)

    async def _answer(self, asked: tuple[int, Thread], *settings: Any) -> AsyncGenerator[Updates, None]:
        _, thread = asked
        models = [model or "base" for model in settings[: self.columns]]
        systems = [system or "" for system in settings[self.columns : 2 * self.columns]]
        try:
            sampling = Controls.read(*settings[2 * self.columns :])
        except ServerError as error:
            failed = [StreamedAnswer(error=str(error))] * self.columns
            yield {**self._shown(thread, failed), self._box: self._ready()}
            return
        conversations = [sent_messages(thread, column, system) for column, system in enumerate(systems)]
        answers, keep_at_s = [StreamedAnswer()] * self.columns, time.monotonic() + KEEP_S
        async with contextlib.aclosing(self._client.answers(models, conversations, sampling)) as growing:
            async for answers in growing:
                kept = [
                    answer.kept(model, system, sampling.tools)
                    for answer, model, system in zip(answers, models, systems, strict=True)
                ]
                thread = thread.answered(kept)
                updates = self._shown(thread, answers)
                if time.monotonic() > keep_at_s:
                    keep_at_s = time.monotonic() + KEEP_S
                    updates[self.kept] = thread.model_dump_json()
                yield updates
        told = {html: chances(answer.scored) for html, answer in zip(self._chances, answers, strict=True)}
        settled = thread.settled()
        yield {
            **self._messages(settled),
            **told,
            self.kept: settled.model_dump_json(),
            self._box: self._ready(),
        }

    def _messages(self, thread: Thread) -> Updates:
        branches = len(thread.branches)
        updates: Updates = {
            self.thread: thread,
            self._branching: gr.update(visible=branches > 1),
            self._branch: f"Branch {thread.branch + 1} of {branches}" if branches else "",
        }
        for column, chatbot in enumerate(self._chatbots):
            messages = [_with_pictures(part) for part, _ in shown(thread, column)]
            updates[chatbot] = gr.update(value=messages, feedback_value=verdicts(thread, column))
        return updates

    def _shown(self, thread: Thread, answers: Sequence[StreamedAnswer]) -> Updates:
        measures = zip(self._measures, answers, strict=True)
        return {
            **self._messages(thread),
            **{measure: measured(answer) for measure, answer in measures},
            **dict.fromkeys(self._chances, ""),
        }


def _place(thread: Thread, column: int, index: Any) -> Place | None:
    """What the chatbot shows at an index; None for an event of what is no longer shown."""
    places = [place for _, place in shown(thread, column)]
    return places[index] if isinstance(index, int) and index < len(places) else None


def _with_pictures(part: dict[str, Any]) -> dict[str, Any]:
    """A message with its images as components of gradio."""
    content = [gr.HTML(picture(one["image"])) if "image" in one else one for one in part["content"]]
    return {**part, "content": content}


def _takes_images(see: frozenset[str], *models: str | None) -> Any:
    """The box takes images if all chosen models see them."""
    return gr.update(sources=["upload"] if all(model in see for model in models) else [])
