"""Blind votes in the tab Judge: two answers to a held-out prompt, and which is better."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from ptune.errors import PtuneError
from ptune.formats.run import Run
from ptune.formats.whole_write import read_json
from ptune.studio.jobs.finished_runs import finished_runs
from ptune.studio.judge.votes import VOTES, Ballot, NoAnswersError, Shown, Tally, against_base, against_run
from ptune.studio.sheet import error, note
from ptune.studio.ship.shipped import has_gguf
from ptune.studio.studio import QUIET, Studio

BEFORE = "the base, before training"
_BUTTONS = {
    "left": "Left is better",
    "right": "Right is better",
    "both": "Both are good",
    "neither": "Neither is",
}


class Blind:
    """Renders the accordion. run: the menu of the tab's run."""

    def __init__(self, studio: Studio, run: gr.Dropdown) -> None:
        self._studio = studio
        with gr.Accordion("Blind votes: whose answer is better?", open=True, elem_id="blind") as box:
            against = gr.Dropdown(
                [BEFORE], value=BEFORE, label="Its answers against those of", elem_id="blind-against", interactive=True
            )  # fmt: skip
            prompt = gr.HTML(elem_id="blind-prompt")
            with gr.Row(equal_height=True):
                left = gr.HTML(elem_id="blind-left")
                right = gr.HTML(elem_id="blind-right")
            with gr.Row(elem_classes="doing"):
                buttons = [
                    gr.Button(text, elem_id=f"vote-{vote}", size="sm", interactive=False)
                    for vote, text in _BUTTONS.items()
                ]
                undo = gr.Button("Undo", elem_id="vote-undo", size="sm", interactive=False)
            told = gr.HTML(elem_id="blind-told")
            with gr.Accordion("Who leads?", open=False, elem_id="blind-result"):
                result = gr.HTML()
        pair = gr.State(None)
        shown = [box, prompt, left, right, *buttons, undo, told, result, pair]

        def render(
            name: str | None, other: str | None, vote: str | None = None, key: str | None = None
        ) -> list[Any]:
            if name is not None and not self.writes(name):
                return self._nothing("", visible=False)
            try:
                ballot = self._ballot(name, other)
                if ballot is not None and vote is not None:
                    if vote == "take back":
                        ballot = ballot.take_back()
                    elif key is not None:
                        ballot = ballot.cast(key, vote)
            except NoAnswersError as problem:
                return self._nothing(note(str(problem)))
            except PtuneError as problem:
                return self._nothing(error(str(problem)))
            return self._nothing("") if ballot is None else self._update(ballot)

        def offer(name: str | None, other: str | None) -> Any:
            names = [one for one in finished_runs(studio.workspace) if one != name and self.writes(one)]
            return gr.update(choices=[BEFORE, *names], value=other if other in names else BEFORE)

        menus = [run, against]
        for event in (run.change, studio.page.load):
            event(offer, menus, against, **QUIET).then(render, menus, shown, **QUIET)
        against.input(render, menus, shown, **QUIET)
        for vote, button in zip(VOTES, buttons, strict=True):
            button.click(
                lambda name, other, key, vote=vote: render(name, other, vote, key),
                [*menus, pair],
                shown,
                **QUIET,
            )
        undo.click(lambda name, other: render(name, other, "take back"), menus, shown, **QUIET)
        self.again = (render, menus, shown)
        """What shows the votes anew, after an evaluation."""

    def writes(self, name: str) -> bool:
        """Whether a run has answers to vote on, or may have once it is evaluated: text, and no labels."""
        try:
            run = Run(self._studio.workspace.run(name))
            if run.evaluation_path.is_file():
                return bool(read_json(run.evaluation_path).get("answers"))
            return has_gguf(self._studio.workspace, name)
        except PtuneError:
            return False

    def _ballot(self, name: str | None, other: str | None) -> Ballot | None:
        if name is None:
            return None
        run = Run(self._studio.workspace.run(name))
        if not run.evaluation_path.is_file():
            return None
        if other is None or other == BEFORE:
            sides, pairs, path = against_base(run)
        else:
            sides, pairs, path = against_run(run, Run(self._studio.workspace.run(other)))
        return Ballot.open(path, sides, pairs)

    def _update(self, ballot: Ballot) -> list[Any]:
        now, tally = ballot.next(), ballot.tally()
        buttons = [gr.update(interactive=now is not None) for _ in VOTES]
        undo = gr.update(interactive=bool(ballot.votes))
        return [
            gr.update(visible=True),
            *_shown(now),
            *buttons,
            undo,
            _counted(tally),
            note(tally.told()),
            now.pair.key if now else None,
        ]

    def _nothing(self, told: str, *, visible: bool = True) -> list[Any]:
        off = gr.update(interactive=False)
        why = told or note(
            "After the evaluation two answers to each held-out prompt stand here, and nobody says whose."
        )
        return [gr.update(visible=visible), "", "", "", *(off for _ in VOTES), off, why, "", None]


def _shown(now: Shown | None) -> tuple[str, str, str]:
    if now is None:
        return "", "", ""
    left, right = (
        f'<div class="answer"><h3>{side}</h3><p>{escape(text) or "(nothing)"}</p></div>'
        for side, text in (("Left", now.left), ("Right", now.right))
    )
    return f"<h3>Prompt</h3><p>{escape(now.pair.prompt)}</p>", left, right


def _counted(tally: Tally) -> str:
    """How far one is; not who leads, which would be no blind vote."""
    same = f" · {tally.same} with equal answers are not asked" if tally.same else ""
    done = "All are voted on: open “Who leads?”." if not tally.left and tally.voted else ""
    return note(f"{tally.voted} of {tally.voted + tally.left} voted on{same}. {done}".strip())
