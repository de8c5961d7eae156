"""ptune init"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from ptune.begin.columns_meant import columns_known
from ptune.begin.look import Look, look_at
from ptune.begin.presets import WHAT, Preset
from ptune.begin.project import Answers, recipe_of, write_recipe, write_sample
from ptune.begin.recognise import check
from ptune.begin.starts import STARTS, Word
from ptune.cli.parse import parse, say_next, shown
from ptune.cli.result import tell
from ptune.config.recipe import Recipe
from ptune.errors import DataError, UsageError

NAME = "mine"


def run(arguments: list[str]) -> int:
    return parse(init, arguments, "init")


def init(
    task: Word | None = None,
    data: tuple[Path, ...] = (),
    model: str | None = None,
    preset: Preset | None = None,
    name: str | None = None,
    columns: tuple[str, ...] = (),
    memory: str | None = None,
    out: Path = Path("recipe.yaml"),
    yes: bool = False,
    overwrite: bool = False,
) -> int:
    """Begins a project: asks what is not said by options, and writes a recipe, and a sample of data if there is none.

    Args:
        task: What the model is to learn; default: asked, or recognised by the columns of the data.
        data: Your files; default: asked, or a sample that is written for you to edit.
        model: The pretrained model: a local folder, a GGUF file, an installed package or a hub id.
        preset: How long to train: quick, balanced or best.
        name: Names runs/NAME and bundles/NAME.
        columns: What columns are called in your files: text=message label=mood.
        memory: Memory that the training may use, such as 24GB; default: this machine's.
        out: The recipe to write.
        yes: Ask nothing: what is not said is as ptune would propose it.
        overwrite: Replace a recipe or a sample that is there already.
    """
    ask = _Asking(not yes)
    named = _named(columns)
    _free(out, overwrite)
    data, found = (data, look_at(data[0])) if data else ask.data()
    likely = found.task if found else "chat"
    task = task or ask.choice(
        "task", "What is it to learn?", {word: one.what for word, one in STARTS.items()}, likely
    )
    if found:
        named = named or columns_known(task, found.rows, found.columns or ())
        check(task, data[0], found.columns, named)
    shipped = _shipped(task)
    model = model or ask.text("model", "The model: a folder, a GGUF file or a hub id", shipped.backbone.model)
    preset = preset or ask.choice("preset", "How long may it train?", WHAT, "balanced")
    name = name or ask.text("name", "A name for the run", NAME)
    answers = Answers(task, data, model, preset, name, named, memory)
    return _write(shipped, answers, out, overwrite)


def _write(shipped: Recipe, answers: Answers, out: Path, overwrite: bool) -> int:
    sample = out.parent / f"{answers.name}.jsonl"
    if not answers.data:
        _free(sample, overwrite)
    recipe = recipe_of(shipped, answers, sample)
    if not answers.data:
        rows = write_sample(shipped, answers.task, sample)
        print(f"written: {shown(sample)}, {rows} rows to put yours in the place of")
    write_recipe(recipe, answers, out)
    tell(recipe=out, sample=None if answers.data else sample, task=answers.task)
    print(f"written: {shown(out)}, from the recipe {STARTS[answers.task].recipe}")
    if answers.columns:
        print("columns: " + ", ".join(f"{name} as {column}" for column, name in answers.columns.items()))
    say_next(f"ptune doctor {shlex.quote(shown(out))}")
    return 0


def _free(path: Path, overwrite: bool) -> None:
    """Raises: UsageError where something would be replaced that nobody asked to."""
    if path.exists() and not overwrite:
        raise UsageError(
            f"{shown(path)} is there already: name another with --out or --name, or say --overwrite"
        )


def _shipped(task: Word) -> Recipe:
    from ptune.config.read_recipe import read_recipe

    return read_recipe(STARTS[task].recipe)


def _named(columns: tuple[str, ...]) -> dict[str, str]:
    pairs = [word.partition("=") for word in columns]
    if wrong := [column for column, _, name in pairs if not column or not name]:
        raise UsageError(
            f"--columns takes column=name, not {wrong[0]!r}: as in --columns text=message label=mood"
        )
    return {column: name for column, _, name in pairs}


def _paths(said: str) -> tuple[Path, ...]:
    try:
        return tuple(map(Path, shlex.split(said)))
    except ValueError as error:
        raise UsageError(f"the names of the files cannot be read: {error}") from None


Choice = TypeVar("Choice", bound=str)


class _Asking:
    """Asks on the terminal for what no option says; or takes what is proposed."""

    def __init__(self, asks: bool) -> None:
        self.asks = asks

    def text(self, option: str, question: str, proposed: str) -> str:
        """A line of text; empty: what is proposed. Raises: UsageError where nobody can be asked."""
        if not self.asks:
            return proposed
        if not sys.stdin.isatty():
            raise UsageError(
                f"there is no terminal to ask on: say --{option}, or --yes for what ptune proposes"
            )
        try:
            return input(f"{question}{f' [{proposed}]' if proposed else ''}: ").strip() or proposed
        except EOFError:
            raise UsageError(
                f"nothing was said to that: say --{option}, or --yes for what ptune proposes"
            ) from None

    def data(self) -> tuple[tuple[Path, ...], Look | None]:
        """Files and a look at the first, asked again until that can be read; none where a sample will do."""
        while True:
            files = _paths(self.text("data", "Your data: files or a folder; empty: a sample to edit", ""))
            try:
                return files, look_at(files[0]) if files else None
            except DataError as error:
                print(error)

    def choice(
        self, option: str, question: str, choices: Mapping[Choice, str], proposed: Choice | None
    ) -> Choice:
        """One of some words, asked again until it is one of them."""
        if not self.asks and proposed is not None:
            return proposed
        if not sys.stdin.isatty() or not self.asks:
            raise UsageError(f"say --{option}, one of {', '.join(choices)}")
        print("\n".join(f"  {word:<12} {what}" for word, what in choices.items()))
        while True:
            said = self.text(option, question, proposed or "")
            for word in choices:
                if word == said:
                    return word
            print(f"one of {', '.join(choices)}")
