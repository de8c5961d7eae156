"""The confusion matrix in the tab Judge, and the examples of the cell that is chosen."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ptune.errors import PtuneError
from ptune.formats.run import Run
from ptune.formats.whole_write import read_json
from ptune.studio.judge.confusion import Confusion, examples, matrix
from ptune.studio.sheet import CHOOSES, error
from ptune.studio.studio import QUIET, Studio


class ConfusionBox:
    """Renders the accordion, which is there for classifiers alone. run: the menu of the tab's run."""

    def __init__(self, studio: Studio, run: gr.Dropdown) -> None:
        self._workspace = studio.workspace
        with gr.Accordion("Which labels are mixed up", open=True, visible=False, elem_id="confusion") as box:
            table = gr.HTML(elem_id="confusion-matrix", js_on_load=CHOOSES)
            shown = gr.HTML(elem_id="confusion-examples")
        table.click(self._examples, run, shown, **QUIET)
        self.again = (self._render, [run], [box, table, shown])
        """What shows it anew, of another run or after an evaluation."""

    def _render(self, name: str | None) -> list[Any]:
        nothing = [gr.update(visible=False), "", ""]
        try:
            found = None if name is None else self._confusion(name)
        except (PtuneError, KeyError, ValueError, TypeError):  # the tab says so where the figures stand
            return nothing
        return nothing if found is None else [gr.update(visible=True), matrix(found[0]), ""]

    def _examples(self, name: str | None, event: gr.EventData) -> str:
        if name is None:
            return ""
        try:
            chosen = self._confusion(name)
            cell = None if chosen is None else chosen[0].cell(str(event.cell))
            if chosen is None or cell is None:
                return ""
            run = Run(self._workspace.run(name))
            return examples(chosen[0], cell, chosen[1], run, self._workspace.folder)
        except PtuneError as problem:
            return error(str(problem))
        except (KeyError, ValueError, TypeError):
            return error(f"the predictions of {name} are of another version: evaluate the run again")

    def _confusion(self, name: str) -> tuple[Confusion, dict[str, Any]] | None:
        """A run's confusion, and its evaluation; None if it has none. Raises: PtuneError."""
        run = Run(self._workspace.run(name))
        if not run.evaluation_path.is_file():
            return None
        evaluation = read_json(run.evaluation_path)
        found = Confusion.of(evaluation)
        return None if found is None else (found, evaluation)
