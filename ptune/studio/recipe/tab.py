"""The tab Recipe: model, method and preset, every option, the memory that it needs, and the file that reruns it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from html import escape
from typing import Any

import gradio as gr

from ptune.begin.presets import WHAT
from ptune.begin.starts import STARTS
from ptune.config.cards import GPUS
from ptune.data.readers.row_count import rows_of
from ptune.errors import PtuneError, UsageError
from ptune.formats.whole_write import write_json
from ptune.methods import METHODS
from ptune.studio import commands
from ptune.studio.ask import ask
from ptune.studio.command_shown import command_line, shows
from ptune.studio.data import choice
from ptune.studio.data.choice import Choice
from ptune.studio.recipe import drafts, forms, length, paces, wrong
from ptune.studio.recipe import shown as shown_recipe
from ptune.studio.recipe.drafts import PRESETS, Draft
from ptune.studio.recipe.models_here import models_here
from ptune.studio.run.start import start
from ptune.studio.studio import QUIET, Studio
from ptune_serve.ui.labels import problem, waiting

HERE = "this machine"
_NO_DATA = "There is no data yet: choose files on the tab Data."
MOST_FOUND = 24  # options that a search shows
IN_TURN: dict[str, Any] = {**QUIET, "concurrency_limit": 1, "concurrency_id": "draft"}
"""Options of what changes the draft, or acts on it at once: one comes after another. Side by side the later of two would begin
with a draft that the earlier has not changed yet, and what was chosen first would be lost."""


class Recipe:
    """From data to a recipe's file, and to its training."""

    def __init__(self, studio: Studio) -> None:
        self._workspace, self._jobs = studio.workspace, studio.jobs
        self.tab = gr.Tab("Recipe", id="recipe")
        with self.tab:
            self._draft = gr.State(None)
            self._form = gr.State(0)  # counts up where the options have to be drawn anew
            self.ready = gr.State(False)
            self._head = gr.HTML(waiting(_NO_DATA), elem_classes="data", elem_id="recipe-head")
            with gr.Row(elem_classes="panes"):
                with gr.Column(scale=3, min_width=300, elem_classes="pane"):
                    self._render_choices()
                    with gr.Accordion("All options", open=False, elem_id="all-options"):
                        self._render_options()
                with gr.Column(scale=2, min_width=300, elem_classes="pane"):
                    self._render_outcome()
        self.looks_at: list[Any] = []
        self.looked = [
            self._draft, self._form, self._head, self._begin, self._name, self._preset, self._model, self._method, self._diff,
            self._planning, *self._outcome,
        ]  # fmt: skip
        self._connect(studio)

    def _render_choices(self) -> None:
        self._begin = gr.Dropdown([], label="Start from an existing recipe", elem_id="begin-from", value=None)
        self._name = gr.Textbox(
            label="Name",
            info="Names recipes/NAME.yaml, runs/NAME and bundles/NAME",
            elem_id="name",
            max_lines=1,
        )
        self._preset = gr.Radio(
            [(f"{name}: {WHAT[name]}", name) for name in PRESETS], value="balanced", label="How long", elem_id="preset"
        )  # fmt: skip
        with gr.Row():
            self._model = gr.Dropdown(
                [], label="Model", info="On this machine; or a folder, a GGUF file or a hub id", allow_custom_value=True,
                elem_id="model", min_width=200,
            )  # fmt: skip
            self._method = gr.Dropdown(
                [kind.__name__ for kind in METHODS], label="Method", info="How its weights are changed", elem_id="method",
                min_width=200,
            )  # fmt: skip
        with gr.Row(elem_classes="doing"):
            self._check = gr.Button("What can this model do here?", size="sm")
        self._can = gr.HTML(elem_classes="data", elem_id="model-check")

    def _render_options(self) -> None:
        self._search = gr.Textbox(
            label="Search", placeholder="lr, batch, quantize …", elem_id="search", max_lines=1,
            info="By name or description", value="",
        )  # fmt: skip
        self._part = gr.Radio(
            list(forms.PARTS), value=forms.PARTS[0], label="Or a part of the recipe", elem_id="part"
        )

        @gr.render(
            inputs=[self._draft, self._search, self._part],
            triggers=[self._form.change, self._search.change],
            show_progress="hidden",
        )
        def options(draft: Draft | None, words: str | None, part: str) -> None:
            self._options(draft, words or "", part)

    def _render_outcome(self) -> None:
        gr.HTML("<h2>Changes from the preset</h2>")
        self._diff = gr.HTML(elem_classes="data", elem_id="diff")
        with gr.Row(elem_classes="doing") as self._planning:
            self._card = gr.Dropdown(
                [HERE, *GPUS], value=HERE, label="Memory on", allow_custom_value=True, elem_id="card", min_width=150
            )  # fmt: skip
            self._predict = gr.Button("Predict the memory", size="sm", elem_id="predict")
        with gr.Row(elem_classes="doing"):
            self._timing = gr.Button("Time a few steps", size="sm", elem_id="time-steps")
        self._lasts = gr.HTML(elem_classes="data", elem_id="lasts")
        self._plan_line = command_line("The prediction on the command line")
        self._plan = gr.HTML(elem_classes="data", elem_id="plan")
        with gr.Row(elem_classes="doing"):
            self._write = gr.Button("Write the recipe", size="sm", elem_id="write")
            self._train = gr.Button("Train it", variant="primary", size="sm", elem_id="train")
        self._write_line = gr.HTML(elem_classes="data", elem_id="written")
        self._train_line = command_line()
        # What was said of a recipe; it is taken away where another one is meant.
        self._outcome = [self._write_line, self._train_line, self._plan_line, self._plan, self._lasts]

    def _connect(self, studio: Studio) -> None:
        studio.page.load(self.look, None, self.looked, **IN_TURN)
        self.tab.select(self._again, self._draft, self.looked, **IN_TURN)
        self._begin.input(self._begins, self._begin, self.looked, **IN_TURN)
        changing = [self._draft, self._form, self._head, self._diff, *self._outcome]
        for component, field in (
            (self._preset, "preset"), (self._model, "model"), (self._method, "method")
        ):  # fmt: skip
            component.input(
                partial(self._chosen, field), [self._draft, self._form, component], changing,
                trigger_mode="always_last", **IN_TURN,
            )  # fmt: skip
        self._name.change(  # gradio's input knows nothing of what is pasted
            partial(self._chosen, "name"),
            [self._draft, self._form, self._name],
            changing,
            trigger_mode="always_last",
            **IN_TURN,
        )
        self._part.input(lambda: ("", _next()), None, [self._search, self._form], **QUIET)
        written = [self._write_line, self._train_line]
        self._write.click(self._written, self._draft, written, **IN_TURN)
        asking: dict[str, Any] = {"show_progress": "minimal", "api_visibility": "private"}
        self._predict.click(
            self._say, [self._draft, self._card], [self._plan_line, self._plan], **IN_TURN
        ).then(self._planned, [self._draft, self._card], self._plan, **asking)
        self._timing.click(self._say_time, self._draft, [self._plan_line, self._lasts], **IN_TURN).then(
            self._timed, self._draft, [self._lasts, self._preset], **asking
        )
        self._check.click(lambda: waiting("Reading its config …"), None, self._can, **QUIET).then(
            self._checked, self._draft, self._can, **asking
        )
        self.training = self._train.click(self._trains, self._draft, [self.ready, *written], **IN_TURN)

    def look(self) -> list[Any]:
        """The draft for the data that is chosen now."""
        return self._shown(drafts.kept(self._workspace, choice.load(self._workspace)))

    def _begins(self, name: str | None) -> list[Any]:
        """Another recipe, under a name of its own; its data is what is chosen now."""
        if not name:
            return [gr.skip() for _ in self.looked]
        try:
            draft = drafts.of_recipe(self._workspace, name)
        except PtuneError as error:
            return [gr.skip() if one is not self._head else problem(str(error)) for one in self.looked]
        choice.save(self._workspace, Choice(draft.files, draft.task, draft.columns))
        return self._shown(draft)

    def _shown(self, draft: Draft | None) -> list[Any]:
        """Values for all that shows a draft, which is kept."""
        recipes = gr.update(choices=self._workspace.recipe_names(), value=None)
        if draft is None:
            empty = [gr.skip()] * 4
            return [None, 0, waiting(_NO_DATA), recipes, *empty, "", gr.skip(), *_nothing()]
        drafts.keep(self._workspace, draft)
        try:
            shown = draft.preset_recipe()
            model, method = shown.backbone.model, type(shown.method).__name__
        except PtuneError:
            model, method = draft.model or "", draft.method or "Lora"
        models = gr.update(choices=list(dict.fromkeys([model, *models_here(self._workspace)])), value=model)
        return [
            draft, _next(), self._told(draft), recipes, draft.name, self._presets(draft), models, method, self._differs(draft),
            gr.update(visible=draft.memory_is_predicted), *_nothing(),
        ]  # fmt: skip

    def _presets(self, draft: Draft) -> Any:
        """The presets, with about how long each is on this data."""
        rows = rows_of(self._workspace.folder, draft.files)
        pace, choices = None, []
        with contextlib.suppress(PtuneError):
            pace = paces.known(self._workspace, draft.preset_recipe())
        for preset in PRESETS:
            try:
                recipe = replace(draft, preset=preset).preset_recipe()
            except PtuneError:
                recipe = None
            choices.append((length.label(preset, recipe, rows, pace), preset))
        return gr.update(choices=choices, value=draft.preset)

    def _again(self, draft: Draft | None) -> list[Any]:
        """As `look`, where other data was chosen meanwhile."""
        same = drafts.kept(self._workspace, choice.load(self._workspace)) == draft
        return [gr.skip() for _ in self.looked] if same else self.look()

    def _chosen(self, field: str, draft: Draft | None, form: int, value: str) -> list[Any]:
        """Another name, preset, model or method."""
        if draft is None:
            return [None, form, problem(_NO_DATA), "", *_nothing()]
        before, fields = draft, dict[str, Any]({field: value.strip()})
        draft = replace(draft, **fields)
        if field == "method":  # the options of another method are others
            kept = {name: text for name, text in draft.changes.items() if not name.startswith("method.")}
            draft = replace(draft, changes=kept)
        drafts.keep(self._workspace, draft)
        form = form if field == "name" else _next()
        return [draft, form, self._told(draft), self._differs(draft), *_nothing(draft == before)]

    def _options(self, draft: Draft | None, words: str, part: str) -> None:
        """Draws the options that were searched for, or those of a part."""
        if draft is None:
            gr.HTML(waiting(_NO_DATA))
            return
        try:
            options = forms.options_of(draft.preset_recipe())
        except PtuneError as error:
            gr.HTML(problem(str(error)))
            return
        shown = [one for one in options if one.name.startswith(f"{part}.")]
        if words.strip():
            shown = forms.found(options, words)[:MOST_FOUND]
            if not shown:
                gr.HTML(problem(forms.meant(options, words)))
        told = wrong.beside(draft)
        for option in shown:
            self._option(option, draft.changes.get(option.name, option.value), told.get(option.name, ""))

    def _option(self, option: forms.Option, value: str, told: str) -> None:
        """Draws an option. told: what is wrong with its value."""
        about: dict[str, Any] = {
            "label": option.name,
            "info": shown_recipe.about(option),
            "elem_id": f"option-{option.name}",
            "interactive": True,
        }
        component: Any
        if option.kind == "switch":
            component = gr.Checkbox(value == "true", **about)
        elif option.kind == "choice":
            choices = [(one or "not set", one) for one in option.choices]
            component = gr.Dropdown(choices, value=value, **about)
        else:
            component = gr.Textbox(value, placeholder="not set", max_lines=3, **about)
        below = gr.HTML(told, elem_id=f"wrong-{option.name}")
        # gradio's input of a text knows nothing of what is pasted.
        event = component.change if option.kind == "text" else component.input
        event(
            partial(self._set, option.name, option.value), [self._draft, component],
            [self._draft, below, self._head, self._diff, *self._outcome], trigger_mode="always_last", **IN_TURN,
        )  # fmt: skip

    def _set(self, name: str, preset: str, draft: Draft, value: Any) -> list[Any]:
        """Another value of an option; the preset's own value is no change."""
        text = forms.as_text(value).strip()
        changes = {key: old for key, old in draft.changes.items() if key != name}
        if text != preset:
            changes[name] = text
        before, draft = draft, replace(draft, changes=changes)
        drafts.keep(self._workspace, draft)
        said = [wrong.beside(draft).get(name, ""), self._told(draft), self._differs(draft)]
        return [draft, *said, *_nothing(draft == before)]

    def _told(self, draft: Draft) -> str:
        """What the recipe is for, or what is wrong with it."""
        told = problem(said) if (said := wrong.unusable(draft)) else ""
        files = ", ".join(draft.files)
        return f"<p><b>{draft.task}</b>: {STARTS[draft.task].what} · {escape(files)}</p>{told}"

    def _differs(self, draft: Draft) -> str:
        try:
            return shown_recipe.diff(forms.differences(draft.preset_recipe(), draft.recipe()), draft.preset)
        except PtuneError:
            return ""

    def _written(self, draft: Draft | None) -> list[Any]:
        return self._attempt(draft, lambda named: None)[1:]

    def _trains(self, draft: Draft | None) -> list[Any]:
        return self._attempt(draft, lambda named: start(self._jobs, named.name.strip()))

    def _attempt(self, draft: Draft | None, then: Callable[[Draft], None]) -> list[Any]:
        """Writes the recipe, and does what comes then: whether it went well, and what to show."""
        if draft is None:
            return [False, problem(_NO_DATA), shows(())]
        try:
            if said := wrong.unusable(draft):
                raise UsageError(f"Nothing was written. {said}")
            path = draft.write(self._workspace)
            then(draft)
        except PtuneError as error:
            return [False, problem(str(error)), shows(())]
        told = f"<p class=good-news>Written: {self._workspace.shown(path)}</p>"
        return [True, told, shows(commands.train(f"recipes/{draft.name}.yaml", f"runs/{draft.name}"))]

    def _say(self, draft: Draft | None, card: str) -> list[Any]:
        try:
            command = self._plan_command(draft, card)
        except PtuneError as error:
            return [shows(()), problem(str(error))]
        return [
            shows(command),
            waiting("Predicting: the model is laid out without its weights …"),
        ]

    def _plan_command(self, draft: Draft | None, card: str = HERE, *, timed: bool = False) -> tuple[str, ...]:
        """The command, for which there is a file. Raises: UsageError, RecipeError."""
        if draft is None:
            raise UsageError(_NO_DATA)
        path = self._workspace.shown(draft.write_for_plan(self._workspace))
        return commands.plan(path, None if card in ("", HERE) else card, timed=timed)

    def _say_time(self, draft: Draft | None) -> list[Any]:
        try:
            command = self._plan_command(draft, timed=True)
        except PtuneError as error:
            return [shows(()), problem(str(error))]
        return [shows(command), waiting("Timing: the model is loaded, and makes a few steps on your rows …")]

    def _timed(self, draft: Draft | None) -> list[Any]:
        """How long the training takes, and the presets with that."""
        try:
            command = self._plan_command(draft, timed=True)
        except PtuneError:  # told already
            return [gr.skip(), gr.skip()]
        beside = any(job.state == "running" for job in self._jobs.all())
        answer = ask(self._workspace, commands.as_json(command))
        if draft is None or drafts.kept(self._workspace, choice.load(self._workspace)) != draft:
            return [gr.skip(), gr.skip()]  # another recipe is meant by now
        told = (answer.document or {}).get("time")
        if told is None:
            why = (
                "It does not fit into memory, so its steps were not timed."
                if answer.document
                else answer.problem
            )
            return [problem(why), gr.skip()]
        paces.keep(self._workspace, draft.recipe(), told)
        return [shown_recipe.lasts(told, beside=beside), self._presets(draft)]

    def _planned(self, draft: Draft | None, card: str) -> Any:
        try:
            command = self._plan_command(draft, card)
        except PtuneError:  # told already
            return gr.skip()
        answer = ask(self._workspace, commands.as_json(command))
        if drafts.kept(self._workspace, choice.load(self._workspace)) != draft:
            return gr.skip()  # another recipe is meant by now
        if draft is None or answer.document is None:
            return problem(answer.problem)
        if card in ("", HERE):
            write_json(self._workspace.own / "plans" / f"{draft.name}.json", answer.document)
        return shown_recipe.plan(answer.document, card or HERE)

    def _checked(self, draft: Draft | None) -> str:
        if draft is None:
            return problem(_NO_DATA)
        try:
            model = draft.preset_recipe().backbone.model
        except PtuneError as error:
            return problem(str(error))
        answer = ask(self._workspace, ("ptune", "doctor", "--model", model, "--json"))
        return problem(answer.problem) if answer.document is None else shown_recipe.model(answer.document)


def _nothing(same: bool = False) -> list[Any]:
    """Values that take away what was said of a recipe. same: of this one: it stays."""
    return [gr.skip()] * 5 if same else ["", shows(()), shows(()), "", ""]


def _next() -> int:
    """A number that no form has had: the options are drawn anew."""
    return time.monotonic_ns()
