"""Correct a row in the tab Data: the row that was chosen, a box for each column, and a copy of the file with what was changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import gradio as gr

from ptune.data.edit import as_written, copy_of, row_at, write_edited
from ptune.errors import PtuneError
from ptune.studio.command_shown import command_line, shows
from ptune.studio.data import own_data
from ptune.studio.sheet import error, note
from ptune.studio.studio import QUIET
from ptune.studio.workspace import Workspace

_LEADS_TO = """() => setTimeout(() => {
  document.querySelector('#edit')?.scrollIntoView({block: 'center'});
  [...document.querySelectorAll('#edit textarea, #edit input')].find(one => one.offsetParent)?.focus({preventScroll: true});
}, 100)"""
MOST_COLUMNS = 8


class Editor:
    """Renders the accordion, which is there once a row is chosen."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._place: gr.State = gr.State(None)  # file and row that are shown
        self._copies = gr.State({})  # file -> its edited copy, for what was said of the file before
        self.saved = gr.State(None)
        """(file, copy) after a row was written."""
        with gr.Accordion("Correct a row", open=True, visible=False, elem_id="edit") as self._box:
            self._where = gr.HTML(elem_id="edit-where")
            self._boxes = [
                gr.Textbox(label="column", visible=False, lines=1, max_lines=12, elem_id=f"edit-{at}")
                for at in range(MOST_COLUMNS)
            ]
            with gr.Row(elem_classes="doing"):
                self._save = gr.Button("Save in a copy", variant="primary", size="sm", elem_id="edit-save")
                self._delete = gr.Button("Leave the row out", size="sm", elem_id="edit-delete")
                self._close = gr.Button("Close", size="sm", elem_id="edit-close")
            self._told = gr.HTML(elem_id="edit-told")
            self._command = command_line()

    def chosen_by(self, pages: Sequence[gr.HTML], files: gr.Dropdown) -> None:
        """HTML whose buttons choose a row, by their data-file and data-row, with `sheet.CHOOSES`. files: those that are chosen."""
        shown = [self._box, self._where, *self._boxes, self._told, self._command, self._place]
        for page in pages:
            page.click(self._choose, [files, self._copies], shown, **QUIET).then(
                None, None, None, js=_LEADS_TO
            )
        self._close.click(lambda: gr.update(visible=False), None, self._box, **QUIET)

    def connect(self, replaced: Any, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        """replaced: (saved, *inputs) -> outputs, what the tab does when a copy takes a file's place."""
        written = [self._told, self._command, self._place, self._copies, self.saved]
        asked = [self._place, self._copies, *self._boxes]
        for button, write in ((self._save, self._write), (self._delete, self._leave_out)):
            button.click(write, asked, written, **QUIET).then(
                replaced, [self.saved, *inputs], list(outputs), **QUIET
            )

    def _choose(self, files: Sequence[str], copies: Mapping[str, str], event: gr.EventData) -> list[Any]:
        file, number = str(event.file), int(event.row)
        while file not in files and file in copies:
            file = copies[file]
        if file not in files:
            return self._nothing(error(f"{file} is not chosen any more"))
        try:
            row = row_at(own_data.place(self._workspace, file), number)
        except PtuneError as problem:
            return self._nothing(error(str(problem)))
        columns = list(row)
        boxes = [
            gr.update(label=column, value=as_written(row[column]), visible=True)
            for column in columns[:MOST_COLUMNS]
        ]
        left = columns[MOST_COLUMNS:]
        more = f" {', '.join(left)} stay as they are." if left else ""
        return [
            gr.update(visible=True), note(f"{file}, row {number}.{more}"), *boxes,
            *[gr.update(visible=False)] * (MOST_COLUMNS - len(boxes)), "", shows(()), (file, number, tuple(columns)),
        ]  # fmt: skip

    def _nothing(self, told: str) -> list[Any]:
        hidden = [gr.update(visible=False)] * MOST_COLUMNS
        return [gr.update(visible=True), "", *hidden, told, shows(()), None]

    def _write(self, at: Any, copies: Mapping[str, str], *texts: str) -> list[Any]:
        if at is None:
            return self._untouched("")
        file, number, columns = at
        try:
            row = row_at(own_data.place(self._workspace, file), number)
        except PtuneError as problem:
            return self._untouched(error(str(problem)))
        shown = zip(columns, texts, strict=False)
        changed = {column: text for column, text in shown if text != as_written(row.get(column))}
        if not changed:
            return self._untouched(note("Nothing is changed."))
        return self._written(at, copies, changed)

    def _leave_out(self, at: Any, copies: Mapping[str, str], *_: str) -> list[Any]:
        return self._untouched("") if at is None else self._written(at, copies, None)

    def _written(self, at: Any, copies: Mapping[str, str], changed: Mapping[str, str] | None) -> list[Any]:
        file, number, columns = at
        source = own_data.place(self._workspace, file)
        try:
            target = copy_of(source, self._workspace.data, partial(own_data.is_used, self._workspace))
            made = write_edited(source, target, number, changed)
        except PtuneError as problem:
            return self._untouched(error(str(problem)))
        copy = self._workspace.shown(target)
        words = [word for column, text in (changed or {}).items() for word in ("--set", f"{column}={text}")]
        command = ("ptune", "edit", file, str(number), *(words or ["--delete"]), "--out", copy)
        what = "is left out of" if changed is None else "is corrected in"
        left = f" {made.left_out} rows that cannot be read are not in it." if made.left_out else ""
        stays = "" if copy == file else f" {file} stays as it is."
        told = f"Row {number} {what} {copy}.{left}{stays} Rows keep their numbers; examine them again when you are done."
        place = None if changed is None else (copy, number, columns)
        after = {**copies, file: copy} if copy != file else copies
        return [note(told, "good"), shows(command), place, after, (file, copy)]

    def _untouched(self, told: str) -> list[Any]:
        return [told, shows(()), gr.skip(), gr.skip(), None]


CSS = """
button.correct { font: inherit; color: var(--link-text-color); background: transparent; border: 0; padding: 0.1rem 0.2rem; cursor: pointer;
  text-decoration: underline; min-height: 1.6rem; min-width: 1.6rem; }
button.correct:focus-visible { outline: 2px solid var(--primary-500); outline-offset: 1px; }
"""
