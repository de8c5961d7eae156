"""ptune tune RECIPE"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console

from ptune.cli.parse import say_next, shown
from ptune.cli.ray_address import RayAddress
from ptune.cli.result import tell
from ptune.cli.train import recipe_in, resolve, with_recipe
from ptune.config.recipe import Recipe
from ptune.errors import UsageError
from ptune.progress import say
from ptune.tuning import space
from ptune.tuning.settings import Search

if TYPE_CHECKING:
    from optuna.study import Study


class TuneOptions(Recipe):
    """Every field of the recipe, and how to search."""

    trials: int = 20
    """Trials of the whole study, those that have ended already included."""
    space: tuple[str, ...] = ()
    """What to search: train.lr=log:1e-5..1e-3 method.r=4|8|16 train.epochs=1..3."""
    metric: Literal["validation_loss", "validation_accuracy"] = "validation_loss"
    """What the trials are judged by, on the validation examples; the test set is never used."""
    search_seed: int = 0
    """Seeds the proposals; the trainings have train.seed."""
    storage: str | None = None
    """Database that several processes share, as postgresql://…; default: a file in the search's folder."""
    out: Path | None = None
    """The search's folder; default: runs/NAME-tune. What is there already is gone on with."""
    ray: RayAddress = None
    """Train the trials on Ray: bare on this machine, else on the cluster at this address (auto: the one that runs here)."""
    workers: int | None = None
    """With --ray: trials that train at a time; default: one for each machine."""
    lr_range: bool = False
    """Instead of a search: one short training with a growing learning rate, and which rate to take."""
    lr_range_steps: int = 100
    """Steps of the learning-rate range test."""


def run(arguments: list[str]) -> int:
    """ptune tune RECIPE [options]"""
    return with_recipe("tune", tune, arguments, TuneOptions)


def tune(recipe: Recipe, arguments: list[str], *, program: str) -> int:
    """Searches for better values of a recipe's fields. Exit code 130 where it was interrupted and can go on."""
    options = resolve(recipe, arguments, program, TuneOptions)
    recipe = recipe_in(options)
    folder = options.out or Path("runs") / f"{recipe.name}-tune"
    if options.workers is not None and options.ray is None:
        raise UsageError("--workers is for --ray")
    if options.lr_range:
        return _lr_range(recipe, folder, options, program)
    if options.trials < 1:
        raise UsageError(f"--trials must be at least 1 (is {options.trials})")
    wanted = space.parse(options.space)
    space.check(wanted, recipe, options.metric)
    if options.ray is not None:
        importlib.import_module("ray")  # is missed before anything is written
    from ptune.tuning import report
    from ptune.tuning.outcome import outcome
    from ptune.tuning.study import open_study

    search = Search(
        recipe, wanted, folder, options.trials, options.metric, options.search_seed, options.storage
    )
    points = space.size(wanted)
    if points is not None and points < search.trials:
        say(f"the space has only {points} points: trials that meet one again take its result")
    study = open_study(search)
    try:
        done = _searched(study, search, options)
    finally:
        found = outcome(study, search)
        report.write(found, search)
        tell(folder=folder, search=found.document(search))
    out = Console(width=None if Console().is_terminal else 140)
    out.print(report.table(found, search))
    print(f"report: {shown(folder / 'report.html')}")
    if not done:
        say("interrupted; the same command goes on with it")
        return 130
    if found.best is not None:
        say_next(f"ptune train {shown(folder / 'best.yaml')}")
    return 0


def train_trial(recipe: Path, folder: Path) -> int:
    """`ptune train` in this process, which goes on where an earlier one was lost. Returns the exit code."""
    from ptune.cli import main
    from ptune.tuning.trial import has_begun

    return main(["train", str(recipe), "--out", str(folder), *(["--resume"] if has_begun(folder) else [])])


def _searched(study: Study, search: Search, options: TuneOptions) -> bool:
    """Runs the trials; False if that was interrupted."""
    from ptune.training.interrupt import StopSignal
    from ptune.tuning.search import search_on

    if options.ray is None:
        with StopSignal() as stop:
            return search_on(study, search, stop=lambda: stop.requested)
    from ptune.cluster.connection import connected, share
    from ptune.cluster.trials import search_on_cluster

    with connected(options.ray), StopSignal() as stop:
        given = share(options.workers)
        return search_on_cluster(study, search, train_trial, given, stop=lambda: stop.requested)


def _lr_range(recipe: Recipe, folder: Path, options: TuneOptions, program: str) -> int:
    from ptune.tuning.lr_range import range_test, write

    if options.space:
        raise UsageError("--lr-range is a test of its own: leave out --space")
    if not 10 <= options.lr_range_steps <= 100:
        raise UsageError(f"--lr-range-steps must be from 10 to 100 (is {options.lr_range_steps})")
    found = range_test(recipe, options.lr_range_steps)
    place = write(found, recipe, folder)
    tell(suggestion=found.suggestion, why=found.told, report=place)
    print(found.told)
    print(f"report: {shown(place)}")
    if found.suggestion is not None:
        say_next(f"{program} --space train.lr=log:{found.suggestion / 10:.0e}..{found.suggestion * 3:.0e}")
    return 0
