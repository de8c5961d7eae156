"""ptune label RECIPE --bundle TEACHER"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from ptune.cli.parse import say_next, shown
from ptune.cli.result import tell
from ptune.cli.train import recipe_in, resolve, with_recipe
from ptune.config.recipe import Recipe
from ptune.engine.options import EngineOptions
from ptune.errors import UsageError
from ptune.formats.bundle import BASE


class LabelOptions(Recipe):
    """Every field of the recipe, and whose labels to write."""

    bundle: Path | None = None
    """The teacher's bundle."""
    adapter: str = BASE
    """The teacher's adapter; default: the bundle's bare base."""
    top: int = 32
    """How many of the most likely tokens to keep for each target; of all others their mass is kept."""
    temperature: float = 1.0
    """Temperature of the teacher's distributions, at which the student is compared, too."""
    out: Path | None = None
    """The folder of labels; default: the recipe's task.teacher_labels. One that is there is gone on with."""
    profile: str | None = None
    """Which of the bundle's graphs to run, such as int8; default: the bundle's own choice."""
    threads: int | None = None
    """Threads of onnxruntime; default: all cores."""
    max_rows: int = EngineOptions.max_rows
    """Most examples in one batch."""


OWN = tuple(name for name in LabelOptions.model_fields if name not in Recipe.model_fields)


def run(arguments: list[str]) -> int:
    """ptune label RECIPE --bundle TEACHER [options]"""
    return with_recipe("label", label, arguments, LabelOptions)


def label(recipe: Recipe, arguments: list[str], *, program: str) -> int:
    """Lets a bundle's engine write a teacher's labels. Exit code 130 where it was interrupted and can go on."""
    options = resolve(recipe, arguments, program, LabelOptions)
    recipe = recipe_in(options)
    if options.bundle is None:
        raise UsageError(
            "--bundle FOLDER names the teacher: a bundle that `ptune export` made of a run or of a pretrained model"
        )
    engine = EngineOptions(profile=options.profile, threads=options.threads, max_rows=options.max_rows)
    engine.check()
    from ptune.tasks.distillation.labelling import label as write_labels

    try:
        folder = write_labels(
            recipe,
            options.bundle,
            options.out,
            adapter=options.adapter,
            top=options.top,
            temperature=options.temperature,
            options=engine,
        )
    except KeyboardInterrupt:
        print("interrupted: the same command goes on", file=sys.stderr)
        return 130
    tell(output=folder)
    chosen = [*without(arguments, OWN)]
    if options.out is not None:
        chosen += ["--task.teacher-labels", shown(folder)]
    say_next(f"{program.replace(' label ', ' train ', 1)} {shlex.join(chosen)}".rstrip())
    return 0


def without(arguments: Sequence[str], names: Sequence[str]) -> list[str]:
    """The arguments without these options, each of which has one value."""
    flags = {f"--{name.replace('_', '-')}" for name in names}
    kept, words = list[str](), iter(arguments)
    for word in words:
        flag, equals, _ = word.replace("_", "-").partition("=")
        if flag not in flags:
            kept.append(word)
        elif not equals:
            next(words, None)
    return kept
