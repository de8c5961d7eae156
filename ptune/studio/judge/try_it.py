"""Try it in the tab Judge: a question of one's own, and what the model says before and after training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from ptune.config.chat import Chat
from ptune.config.recipe import Recipe
from ptune.config.task_spec import TaskSpec
from ptune.config.translation import Translation
from ptune.errors import PtuneError
from ptune.evaluation.asking.question import SIDES, Question, needs
from ptune.formats.run import Run
from ptune.studio.command_shown import command_line, shows
from ptune.studio.judge.loaded_model import LoadedModel
from ptune.studio.judge.said import answer
from ptune.studio.sheet import error, note
from ptune.studio.studio import QUIET, Studio

TOKENS = (64, 256, 1024)
SECONDS = 120.0


class TryIt:
    """Renders the accordion. run: the menu of the tab's run."""

    def __init__(self, studio: Studio, run: gr.Dropdown) -> None:
        self._workspace = studio.workspace
        self._model = LoadedModel(studio.workspace)
        with gr.Accordion("Try it, before and after training", open=True, elem_id="try") as self._box:
            with gr.Row():
                self._text = gr.Textbox(label="Prompt", lines=2, max_lines=8, elem_id="try-text", scale=3)
                self._others = gr.Textbox(
                    label="Compared with these texts, one a line", lines=3, max_lines=8, elem_id="try-others", scale=3,
                    visible=False,
                )  # fmt: skip
                self._image = gr.Image(
                    label="Image", type="filepath", image_mode=None, sources=["upload"], height=180, visible=False, elem_id="try-image",
                    buttons=[],
                )  # fmt: skip
                self._tokens = gr.Dropdown(
                    [(f"{count:,} tokens", count) for count in TOKENS], value=TOKENS[0], label="Longest answer",
                    elem_id="try-tokens", interactive=True, scale=1, min_width=180,
                )  # fmt: skip
            with gr.Row(elem_classes="doing"):
                self._ask = gr.Button("Ask both", variant="primary", size="sm", elem_id="try-ask")
                self._stop = gr.Button("Stop", size="sm", visible=False, elem_id="try-stop")
            self._told = gr.HTML(elem_id="try-told")
            self._sides = []
            with gr.Row():
                for side in SIDES:
                    with gr.Column(min_width=280):
                        self._sides.append(gr.HTML(elem_id=f"try-{side}"))
            self._command = command_line()
        self._connect(studio, run)

    def _connect(self, studio: Studio, run: gr.Dropdown) -> None:
        fields = [self._text, self._others, self._image, self._tokens]
        shown = [self._box, *fields, self._told, *self._sides, self._command]
        gr.on([run.change, studio.page.load], self._fields, run, shown, **QUIET)
        asked = [run, *fields]
        answers = [self._told, *self._sides, self._command, self._ask, self._stop]
        gr.on([self._ask.click, self._text.submit], self._answer, asked, answers, **QUIET)
        self._stop.click(self._model.stop, None, None, **QUIET)

    def _task(self, name: str) -> TaskSpec:
        """Raises: PtuneError of a damaged run."""
        task: TaskSpec = Recipe.load(Run(self._workspace.run(name)).recipe_path).task
        return task

    def _fields(self, name: str | None) -> list[Any]:
        """What can be asked of a run; what was said of another is cleared."""
        told, label, writes = "", "", False
        needed: tuple[str, ...] = ()
        if name is not None:
            try:
                task = self._task(name)
                needed, label, writes = needs(task), _label(task), _writes(task)
            except PtuneError as problem:
                told = note(str(problem))
        return [
            gr.update(visible=name is not None),
            gr.update(visible="text" in needed, label=label, value=""),
            gr.update(visible="others" in needed, value=""),
            gr.update(visible="image" in needed, value=None),
            gr.update(visible=writes),
            told, "", "", shows(()),
        ]  # fmt: skip

    def _answer(
        self, name: str | None, text: str, others: str, image: str | None, tokens: int
    ) -> Iterator[list[Any]]:
        """What both sides say, as it comes."""
        if name is None:
            return
        command, said = shows(()), dict[str, Any]()
        idle = [gr.update(interactive=True), gr.update(visible=False)]
        try:
            needed = needs(task := self._task(name))
            question = _question(needed, text, others, image, tokens).checked(needed)
            command = shows(self._words(name, question, writes=_writes(task)))
            compares = "others" in needed

            def page(told: str, *buttons: Any) -> list[Any]:
                sides = [answer(side, said.get(side), question.text, compares=compares) for side in SIDES]
                return [told, *sides, command, *buttons]

            busy = [gr.update(interactive=False), gr.update(visible=True)]
            with self._model.asked(name, question) as lines:
                yield page(note("Loading the model …"), *busy)
                for line in lines:
                    if "side" in line:
                        said[line["side"]] = line
                    yield page(note("Answering …"), *busy)
            yield page("", *idle)
        except PtuneError as problem:
            yield [error(str(problem)), *_so_far(said, text, compares=bool(others.strip())), command, *idle]

    def _words(self, name: str, question: Question, *, writes: bool) -> tuple[str, ...]:
        """The command that asks the same."""
        return (
            "ptune", "ask", self._workspace.shown(self._workspace.run(name)),
            *(("--image", Path(question.image).name) if question.image is not None else (question.text,)),
            *(word for other in question.others for word in ("--other", other)),
            *(("--max-tokens", str(question.max_tokens)) if writes else ()),
        )  # fmt: skip


def _question(needed: tuple[str, ...], text: str, others: str, image: str | None, tokens: int) -> Question:
    lines = tuple(dict.fromkeys(line.strip() for line in others.splitlines() if line.strip()))
    return Question(
        text if "text" in needed else "",
        lines if "others" in needed else (),
        Path(image) if "image" in needed and image is not None else None,
        tokens,
        SECONDS,
    )


def _so_far(said: dict[str, Any], question: str, *, compares: bool) -> list[str]:
    """What came before the answer was broken off."""
    return [answer(side, said[side], question, compares=compares) if side in said else "" for side in SIDES]


def _label(task: TaskSpec) -> str:
    if isinstance(task, Translation):
        return "Text to translate"
    return "Text" if not _writes(task) else "Prompt"


def _writes(task: TaskSpec) -> bool:
    return isinstance(task, Chat)
