"""The tab Data: files are dropped, recognised, examined, and shown as the model will see them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from ptune.begin.look import Look, look_at
from ptune.begin.recognise import check
from ptune.begin.starts import STARTS, Word
from ptune.errors import DataError, PtuneError
from ptune.studio import commands
from ptune.studio.ask import ask
from ptune.studio.command_shown import command_line, shows
from ptune.studio.data import guess, own_data, said
from ptune.studio.data import shown as shown_data
from ptune.studio.data.choice import Choice, load, save
from ptune.studio.data.editor import Editor
from ptune.studio.sheet import CHOOSES
from ptune.studio.studio import QUIET, Studio
from ptune_serve.ui.labels import problem, waiting

_INVITATION = "Drop a file, or choose one that is here already."


class Data:
    """From files to rows that can be trained on."""

    def __init__(self, studio: Studio) -> None:
        self._workspace = studio.workspace
        self.tab = gr.Tab("Data", id="data")
        with self.tab:
            with gr.Row(elem_classes="panes"):
                with gr.Column(scale=2, min_width=300, elem_classes="pane"):
                    self._render_files()
                    self._render_meaning()
                    with gr.Row(elem_classes="doing"):
                        self._examine = gr.Button("Examine the rows", size="sm", elem_id="examine")
                        self._clean = gr.Button(
                            "Make a clean copy", size="sm", visible=False, elem_id="clean"
                        )
                        self._next = gr.Button(
                            "Make a recipe", variant="primary", size="sm", elem_id="to-recipe"
                        )
                with gr.Column(scale=3, min_width=300, elem_classes="pane"):
                    self._look = gr.HTML(
                        waiting(_INVITATION), elem_classes="data", elem_id="look", js_on_load=CHOOSES
                    )
            self.ready = gr.State(False)
            self._errors = gr.State(0)  # that the last examination found
            self._editor = Editor(self._workspace)
            self._command = command_line()
            self._told = gr.HTML(elem_classes="data", elem_id="examined", js_on_load=CHOOSES)
        self._connect(studio)

    def _render_files(self) -> None:
        self._drop = gr.File(
            label="JSONL, CSV, Parquet, text …",
            file_count="multiple",
            height=150,
            elem_classes="drop",
        )
        self._files = gr.Dropdown(
            [], label="Files to train on", info="Or a path on this machine, a folder of images, or hub:OWNER/NAME",
            multiselect=True, allow_custom_value=True, elem_id="files",
        )  # fmt: skip

    def _render_meaning(self) -> None:
        self._task = gr.Dropdown(
            [(f"{word}: {one.what}", word) for word, one in STARTS.items()], value=None,
            label="What the model is to learn", elem_id="task",
        )  # fmt: skip
        with gr.Row():
            self._columns = [
                gr.Dropdown(
                    [],
                    label="column",
                    visible=False,
                    allow_custom_value=True,
                    min_width=130,
                    elem_id=f"column-{at}",
                )
                for at in range(own_data.MOST_COLUMNS)
            ]

    def _connect(self, studio: Studio) -> None:
        meaning = [self._task, *self._columns]
        shown = [self._look, *meaning]
        studio.page.load(self._remembered, None, [self._files, *shown], **QUIET)
        self._drop.upload(self._take_in, self._drop, [self._drop, self._files, *shown], **QUIET)
        self._files.input(self._recognise, self._files, shown, **QUIET)
        self._task.input(self._ask_for_columns, [self._files, self._task], shown, **QUIET)
        for column in self._columns:
            column.input(self._keep, [self._files, *meaning], [self._look, *self._columns], **QUIET)
        self._drop.upload(
            self._forget, None, told := [self._command, self._told, self._clean, self._errors], **QUIET
        )
        for changed in (self._files, *meaning):
            changed.input(self._forget, None, told, **QUIET)
        chosen = [self._files, *meaning]
        self._editor.chosen_by((self._look, self._told), self._files)
        self._editor.connect(self._corrected, chosen, (self._files, self._look))
        self.chosen = self._next.click(
            self._is_ready, [self._errors, *chosen], [self.ready, self._told], **QUIET
        )
        examining: dict[str, Any] = {"show_progress": "minimal", "api_visibility": "private"}
        self._examine.click(self._say, chosen, [self._command, self._told], **QUIET).then(
            self._examined, chosen, [self._told, self._clean, self._errors], **examining
        )
        self._clean.click(
            lambda: waiting("Copying the rows that can be used …"), None, self._told, **QUIET
        ).then(
            self._cleans,
            chosen,
            [self._files, self._look, self._command, self._told, self._clean, self._errors],
            **examining,
        )

    def _remembered(self) -> list[Any]:
        """What was chosen before the page was loaded again."""
        choice = load(self._workspace)
        files = gr.update(choices=own_data.names(self._workspace), value=list(choice.files))
        if not choice.files:
            return [files, *self._nothing()]
        return [files, *self._meant(self._looked(choice.files[0]), choice)]

    def _take_in(self, uploaded: Sequence[str] | None) -> list[Any]:
        """Keeps the files that can be used, and says why the others are not kept and which are called otherwise."""
        good, told = [], []
        try:
            for path in map(Path, uploaded or ()):
                try:
                    look_at(path)
                except DataError as error:
                    told.append(problem(said.refused(path, error)))
                else:
                    good.append(path)
            files = own_data.take_in(self._workspace, good)
        except PtuneError as error:
            told, files = [problem(str(error))], []
        if not files:
            return [None, gr.skip(), "".join(told), *[gr.skip() for _ in range(1 + len(self._columns))]]
        told += map(waiting, said.renamed(good, files))
        update = gr.update(choices=own_data.names(self._workspace), value=files)
        look, *meaning = self._recognise(files)
        return [None, update, "".join(told) + look, *meaning]

    def _recognise(self, files: Sequence[str]) -> list[Any]:
        """A first look at the first of the files."""
        before = load(self._workspace)
        if not files:
            save(self._workspace, replace(before, files=()))  # the next file may have the same header
            return self._nothing()
        found = self._looked(files[0])
        if isinstance(found, str):
            return self._meant(found, Choice(tuple(files)))
        choice = guess.chosen_for(files, found, before)
        save(self._workspace, choice)
        return self._meant(found, choice)

    def _ask_for_columns(self, files: Sequence[str], task: Word | None) -> list[Any]:
        """Another task: its columns are asked for."""
        if not files:
            return self._nothing(task)
        found, choice = self._looked(files[0]), Choice(tuple(files), task)
        if isinstance(found, Look) and task is not None:
            choice = guess.guessed(files, found, task)
        save(self._workspace, choice)
        return self._meant(found, choice)

    def _keep(self, files: Sequence[str], task: Word | None, *named: str | None) -> list[Any]:
        choice = self._choice(files, task, named)
        save(self._workspace, choice)
        if not files:
            return [waiting(_INVITATION), *[gr.skip() for _ in self._columns]]
        found = self._looked(files[0])
        look, _, *columns = self._meant(found, choice)
        return [look, *columns]

    def _choice(self, files: Sequence[str], task: Word | None, named: Sequence[str | None]) -> Choice:
        asked = () if task is None else own_data.columns_asked(task)
        columns = {
            column: name for column, name in zip(asked, named, strict=False) if name and name != column
        }
        before = load(self._workspace)
        guessed = tuple(one for one in before.guessed if before.columns.get(one) == columns.get(one))
        return Choice(tuple(files), task, columns, before.header, guessed)

    def _forget(self) -> list[Any]:
        """What was said about other data, or about another task, does not stay."""
        return [shows(()), "", gr.update(visible=False), 0]

    def _is_ready(
        self, errors: int, files: Sequence[str], task: Word | None, *named: str | None
    ) -> tuple[bool, Any]:
        if wrong := self._wrong(files, task, named):
            return False, problem(wrong)
        if errors:
            gr.Warning(said.before_training(errors))
        save(self._workspace, self._choice(files, task, named))
        return True, gr.skip()

    def _say(self, files: Sequence[str], task: Word | None, *named: str | None) -> tuple[Any, str]:
        """The command, before its answer is there."""
        if wrong := self._wrong(files, task, named):
            return shows(()), problem(wrong)
        return shows(commands.doctor(self._choice(files, task, named))), waiting("Examining every row …")

    def _wrong(self, files: Sequence[str], task: Word | None, named: Sequence[str | None]) -> str:
        """Why nothing can be done with the files yet; empty if it can."""
        unread = [found for file in files if isinstance(found := self._looked(file), str)]
        if unread:
            return said.useless(unread[0])
        if unchosen := said.missing(files, task):
            return unchosen
        found = self._looked(files[0])
        if isinstance(found, Look) and (unnamed := guess.unnamed(found, self._choice(files, task, named))):
            return f"Choose which column is the {' and which the '.join(unnamed)}."
        return ""

    def _examined(self, files: Sequence[str], task: Word | None, *named: str | None) -> list[Any]:
        if self._wrong(files, task, named):
            return [gr.skip(), gr.skip(), 0]
        choice = self._choice(files, task, named)
        command = commands.doctor(choice)
        answer = ask(self._workspace, commands.as_json(command, "--rows", str(commands.ROWS)))
        if answer.document is None:
            return [problem(answer.problem), gr.update(visible=False), 0]
        untold = said.without_template(self._looked(files[0]), choice)
        parts: tuple[Callable[[Any], str], ...] = (
            partial(shown_data.findings, files=files), shown_data.splits, shown_data.lengths,
            partial(shown_data.rows, note=untold, files=files),
        )  # fmt: skip
        titles = ("What doctor found", "Splits", "", "As the model sees it")
        told = [(title, part(answer.document)) for title, part in zip(titles, parts, strict=True)]
        page = "".join(f"{f'<h2>{title}</h2>' if title else ''}{html}" for title, html in told if html)
        found = bool(answer.document.get("findings"))
        return [page, gr.update(visible=found), said.errors_in(answer.document)]

    def _cleans(self, files: Sequence[str], task: Word | None, *named: str | None) -> list[Any]:
        """Copies without the rows that cannot be used take the place of the files."""
        if wrong := self._wrong(files, task, named):
            return [gr.skip(), gr.skip(), shows(()), problem(wrong), gr.skip(), 0]
        choice = self._choice(files, task, named)
        command = (*commands.doctor(choice), "--clean", self._workspace.shown(self._workspace.data))
        answer = ask(self._workspace, commands.as_json(command))
        if answer.document is None:
            return [gr.skip(), gr.skip(), shows(command), problem(answer.problem), gr.skip(), gr.skip()]
        made = answer.document["clean"]
        choice = replace(choice, files=tuple(one["copy"] for one in made))
        save(self._workspace, choice)
        return [
            gr.update(choices=own_data.names(self._workspace), value=list(choice.files)),
            self._shown(self._looked(choice.files[0]), choice), shows(command), shown_data.cleaned(made), gr.update(visible=False), 0,
        ]  # fmt: skip

    def _corrected(
        self, saved: tuple[str, str] | None, files: Sequence[str], task: Word | None, *named: str | None
    ) -> list[Any]:
        """A copy in which a row is corrected takes the place of its file."""
        if saved is None:
            return [gr.skip(), gr.skip()]
        now = [saved[1] if file == saved[0] else file for file in files]
        choice = self._choice(now, task, named)
        save(self._workspace, choice)
        names = gr.update(choices=own_data.names(self._workspace), value=now)
        return [names, self._shown(self._looked(now[0]), choice)]

    def _looked(self, file: str) -> Look | str:
        """A look at a file, or what is wrong with it."""
        try:
            return look_at(own_data.place(self._workspace, file))
        except PtuneError as error:
            return str(error)

    def _shown(self, found: Look | str, choice: Choice) -> str:
        if isinstance(found, str):
            return problem(found)
        wrong = problem(unsure) if (unsure := guess.unsure(found, choice)) else ""
        if choice.task is not None:
            try:
                check(choice.task, found.path, found.columns, choice.columns)
            except PtuneError:
                wrong = wrong or problem(
                    f"{choice.task} does not find its columns among {', '.join(found.columns or ())}: say which is which."
                )
        return wrong + shown_data.look(found, choice.files[0], choice.task)

    def _nothing(self, task: Word | None = None) -> list[Any]:
        """The invitation, and a task without columns."""
        return [waiting(_INVITATION), gr.update(value=task), *[_hidden() for _ in self._columns]]

    def _meant(self, found: Look | str, choice: Choice) -> list[Any]:
        """Updates of the look, the task and its columns."""
        asked = () if choice.task is None else own_data.columns_asked(choice.task)
        updates: list[Any] = [self._shown(found, choice), gr.update(value=choice.task)]
        for at in range(len(self._columns)):
            if isinstance(found, str) or not found.columns or at >= len(asked):
                updates.append(_hidden())
                continue
            column, columns = asked[at], found.columns
            value = choice.columns.get(column) or (column if column in columns else "")
            none = "not chosen yet" if column in guess.unnamed(found, choice) else "automatic"
            choices = [(one or none, one) for one in ("", *columns)]
            info = guess.beside(found, choice, column)
            updates.append(gr.update(label=column, choices=choices, value=value, info=info, visible=True))
        return updates


def _hidden() -> Any:
    return gr.update(visible=False, value=None, choices=[], info="")
