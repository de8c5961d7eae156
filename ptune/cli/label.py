"""ptune label RECIPE --bundle TEACHER, or --logprobs FILE…"""

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
    logprobs: tuple[Path, ...] = ()
    """Instead of a bundle: files of log-probabilities that another server wrote, lines of JSON as vLLM and batches have them."""
    adapter: str = BASE
    """The teacher's adapter; default: the bundle's bare base."""
    top: int | None = None
    """How many of the most likely tokens to keep for each target; of all others their mass is kept. Default: 32, of files as many as they have."""
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
    """ptune label RECIPE --bundle TEACHER [options], or with --logprobs FILE… in its place"""
    return with_recipe("label", label, arguments, LabelOptions)


def label(recipe: Recipe, arguments: list[str], *, program: str) -> int:
    """Lets a bundle's engine write a teacher's labels. Exit code 130 where it was interrupted and can go on."""
    options = resolve(recipe, arguments, program, LabelOptions)
    recipe = recipe_in(options)
    try:
        folder = _written(recipe, options)
    except KeyboardInterrupt:
        print("interrupted: the same command goes on", file=sys.stderr)
        return 130
    tell(output=folder)
    chosen = [*without(arguments, OWN)]
    if options.out is not None:
        chosen += ["--task.teacher-labels", shown(folder)]
    say_next(f"{program.replace(' label ', ' train ', 1)} {shlex.join(chosen)}".rstrip())
    return 0


def _written(recipe: Recipe, options: LabelOptions) -> Path:
    """The folder of labels."""
    if options.logprobs:
        if options.bundle is not None or options.temperature != 1:
            raise UsageError(
                "--logprobs are of another server's model, at temperature 1: leave out --bundle and --temperature"
            )
        from ptune.tasks.distillation.served_labels import label_from_files

        return label_from_files(recipe, options.logprobs, options.out, top=options.top)
    if options.bundle is None:
        raise UsageError(
            "--bundle FOLDER names the teacher: a bundle that `ptune export` made of a run or of a pretrained model"
        )
    engine = EngineOptions(profile=options.profile, threads=options.threads, max_rows=options.max_rows)
    engine.check()
    from ptune.tasks.distillation.labelling import label as write_labels

    return write_labels(
        recipe,
        options.bundle,
        options.out,
        adapter=options.adapter,
        top=32 if options.top is None else options.top,
        temperature=options.temperature,
        options=engine,
    )


def without(arguments: Sequence[str], names: Sequence[str]) -> list[str]:
    """The arguments without these options and their values."""
    flags = {f"--{name.replace('_', '-')}" for name in names}
    kept, keeps = list[str](), True
    for word in arguments:
        if word.startswith("--"):
            keeps = word.replace("_", "-").partition("=")[0] not in flags
        if keeps:
            kept.append(word)
    return kept
