"""ptune ask RUN TEXT"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tyro.conf import Positional, UseAppendAction

from ptune.cli.parse import parse, say_next, shown
from ptune.cli.result import tell
from ptune.config.recipe import Recipe
from ptune.config.tasks import task_of
from ptune.errors import UsageError
from ptune.evaluation.asking.question import SIDES, Question, needs
from ptune.formats.run import Run
from ptune.kinds import imported

if TYPE_CHECKING:
    from ptune.evaluation.asking.question import Asker, Said


def run(arguments: list[str]) -> int:
    return parse(ask, arguments, "ask")


def ask(
    source: Annotated[Positional[Path], tyro.conf.arg(metavar="RUN")],
    text: Positional[str] = "",
    other: UseAppendAction[tuple[str, ...]] = (),
    image: Path | None = None,
    max_tokens: int = Question.max_tokens,
    max_s: float = Question.max_s,
    lines: bool = False,
    idle_s: float | None = None,
) -> int:
    """Asks a finished run's model about one input, before and after training, in torch: no export is needed.

    A chat model answers, a classifier gives labels with probabilities, a tagger marks words, a translator translates, and
    embeddings, rerankers and reward models compare TEXT with each --other. What is written is greedy: the same each time.

    Args:
        source: A run's folder.
        text: A prompt, or what is to be labelled, tagged, translated or compared.
        other: A text that TEXT is compared with; may be said again.
        image: Of an image classifier: the file.
        max_tokens: Longest answer of each side, in tokens.
        max_s: Longest time that each side writes, in seconds.
        lines: Read questions as JSON lines from standard input instead, and answer each in JSON lines.
        idle_s: With --lines: end after so many seconds without a question.
    """
    opened = Run.open(source)
    opened.finished_record()
    task = Recipe.load(opened.recipe_path).task
    needed = needs(task)
    if lines:
        if text or other or image is not None:
            raise UsageError("--lines reads its questions from standard input: leave out what is asked here")
        return _answer_lines(opened, imported(task_of(task).ask), needed, idle_s)
    if idle_s is not None:
        raise UsageError("--idle-s is for --lines")
    question = Question(text, other, image, max_tokens, max_s).checked(needed)
    asker: Asker = imported(task_of(task).ask)(opened)
    said = {side: asker(side, question) for side in SIDES}
    for side, one in said.items():
        print(f"{side}:\n{_told(one, question)}\n")
    tell(run=source, **{side: one.described() for side, one in said.items()})
    say_next(f"ptune evaluate {shown(source)}")
    return 0


def _answer_lines(opened: Run, load: Any, needed: tuple[str, ...], idle_s: float | None) -> int:
    """Answers JSON lines on standard output, which libraries may not write to meanwhile."""
    from ptune.evaluation.asking.lines import answer_lines, lines_of

    out = sys.stdout

    def told(line: dict[str, Any]) -> None:
        print(json.dumps(line, ensure_ascii=False), file=out, flush=True)

    with contextlib.redirect_stdout(sys.stderr):
        asker: Asker = load(opened)
        told({"ready": True})
        answer_lines(asker, needed, lines_of(sys.stdin.fileno(), idle_s), told)
    return 0


def _told(said: Said, question: Question) -> str:
    """What a side says, for a terminal."""
    parts = []
    if said.text is not None:
        parts.append(said.text or "(nothing)")
    if said.scores is not None:
        parts += [f"{value:8.4f}  {name}" for name, value in said.scores.items()]
    if said.marks is not None:
        found = [
            f"{question.text[mark.begin : mark.end]}  {mark.label}  {mark.score:.1%}" for mark in said.marks
        ]
        parts.append("\n".join(found) or "nothing is tagged")
    if said.note:
        parts.append(f"({said.note})")
    return "\n".join(parts)
