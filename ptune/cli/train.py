"""ptune train RECIPE"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_type_hints

import yaml
from pydantic import create_model

from ptune.cli.parse import called, say_next, shown
from ptune.cli.ray_address import RayAddress
from ptune.cli.result import tell
from ptune.config.read_recipe import read_recipe
from ptune.config.recipe import Data, Recipe
from ptune.config.shipped import listed
from ptune.config.tasks import TASKS
from ptune.errors import UsageError
from ptune.spec import Spec

Options = TypeVar("Options", bound=Recipe)


class TrainOptions(Recipe):
    """Every field of the recipe, and how to run it."""

    out: Path | None = None
    """The run's folder; default: runs/NAME."""
    resume: bool = False
    """Go on from the newest checkpoint of `out`."""
    ray: RayAddress = None
    """Train in several processes on Ray: bare on this machine, else on the cluster at this address (auto: the one that runs here)."""
    workers: int | None = None
    """With --ray: how many processes; default: one for each machine."""
    dry_run: bool = False
    """Print the resolved recipe and stop."""


def run(arguments: list[str]) -> int:
    """ptune train RECIPE [options]"""
    return with_recipe("train", train, arguments, TrainOptions)


def with_recipe(command: str, run: Callable[..., int], arguments: list[str], options: type[Recipe]) -> int:
    """Runs a command whose first argument is a recipe: `run(recipe, options, program=…)`. options: the command's."""
    if not arguments or arguments[0].startswith("-"):
        usage = f"usage: ptune {command} RECIPE [options]"
        known = f"RECIPE is a .py file, a run's recipe.yaml, or a shipped recipe:\n{listed()}"
        if arguments[:1] in (["-h"], ["--help"]):
            tasks = ", ".join(task.recipe_name for task in TASKS)
            print(
                f"{usage}\n\n{known}\n\nEvery recipe has the options below."
                f" Its task (one of {tasks}) and its method have more: ptune {command} RECIPE --help shows them"
                " with the recipe's values.\n"
            )
            return show_common(options, f"ptune {command} RECIPE")
        raise UsageError(f"{usage}. {known}")
    return run(read_recipe(arguments[0]), arguments[1:], program=f"ptune {command} {arguments[0]}")


def show_common(options: type[Recipe], program: str) -> NoReturn:
    """Prints the options that do not depend on a recipe's task or method, and exits with 0."""
    types = get_type_hints(options, include_extras=True)
    common: dict[str, Any] = {
        name: (types[name], field)
        for name, field in options.model_fields.items()
        if name not in ("task", "method")
    }
    kind = create_model(options.__name__, __base__=Spec, __doc__=options.__doc__, **common)
    called(kind, ["--help"], program, kind())
    raise AssertionError("--help exits")


def train(recipe: Recipe, arguments: list[str], *, program: str) -> int:
    """Trains `recipe` as changed by options. Exit code 130 where it was interrupted and can be resumed."""
    options = resolve(recipe, arguments, program, TrainOptions)
    recipe = recipe_in(options)
    if options.dry_run:
        tell(recipe=recipe.document())
        print(yaml.safe_dump(recipe.document(), sort_keys=False, allow_unicode=True), end="")
        return 0
    if options.workers is not None and options.ray is None:
        raise UsageError("--workers is for --ray")
    out = options.out or Path("runs") / recipe.name
    command = f"{program} {shlex.join(arguments)}".strip()
    if options.ray is None:
        code = _trained(recipe, out, command, options.resume)
    else:
        code = _on_ray(options.ray, options.workers, recipe, out, command, options.resume)
    if code == 0 and os.environ.get("RANK", "0") == "0":  # of several processes only the first speaks
        say_next(f"ptune evaluate {shown(out)}")
    return code


def _trained(recipe: Recipe, out: Path, command: str, resume: bool) -> int:
    from ptune.fine_tune import train as train_run

    done = train_run(recipe, out, resume=resume, command=command)
    tell(run=out, adapter=done.adapter_path, record=done.record())
    return 130 if done.record().status == "interrupted" else 0


def _on_ray(address: str, workers: int | None, recipe: Recipe, out: Path, command: str, resume: bool) -> int:
    from ptune.cluster.connection import connected, share
    from ptune.cluster.ranks import train_on
    from ptune.training.interrupt import StopSignal

    with connected(address), StopSignal(quiet=True) as stop:
        given = share(workers)
        one = partial(train_rank, recipe, out, command)
        return train_on(one, out, resume, given, lambda: stop.requested)


def train_rank(recipe: Recipe, out: Path, command: str, resume: bool) -> int:
    """One process of several; what ptune raises on purpose is said, and told by the exit code."""
    from ptune.cli import spoken

    return spoken("train", lambda: _trained(recipe, out, command, resume))


def resolve(recipe: Recipe, arguments: list[str], program: str, kind: type[Options]) -> Options:
    """`recipe` with the options of the command line, `kind`'s own among them.

    Raises: RecipeError for values that no recipe can have. Exits with 2 where an option is unknown or malformed.
    """
    default = kind(**{name: getattr(recipe, name) for name in Recipe.model_fields})
    options = called(kind, arguments, program, default)
    return options.model_copy(update={"data": own_data(recipe.data, options.data)})


def recipe_in(options: Recipe) -> Recipe:
    """The recipe without a command's own options."""
    return Recipe(**{name: getattr(options, name) for name in Recipe.model_fields})


def own_data(recipe: Data, chosen: Data) -> Data:
    """Who trains on other files than the recipe's does not want to be judged on the recipe's held-out files."""
    if chosen.files == recipe.files:
        return chosen
    left = {
        split: ()
        for split in ("validation", "test")
        if getattr(recipe, split) and getattr(chosen, split) == getattr(recipe, split)
    }
    if left:
        share = f"{chosen.validation_share:.0%} of your files"
        print(
            f"data.files is yours: the recipe's {' and '.join(left)} files are left out; held out: {share}",
            file=sys.stderr,
        )
    return chosen.model_copy(update=left)
