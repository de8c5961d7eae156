"""ptune train RECIPE"""

from __future__ import annotations

import importlib.util
import os
import pkgutil
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import tyro
import yaml
from pydantic import ValidationError

from ptune.cli.parse import say_next, shown
from ptune.config.recipe import Data, Recipe, explain, nearest
from ptune.config.tasks import TASKS
from ptune.errors import RecipeError, UsageError

Options = TypeVar("Options", bound=Recipe)


class TrainOptions(Recipe):
    """Every field of the recipe, and how to run it."""

    out: Path | None = None
    """The run's folder; default: runs/NAME."""
    resume: bool = False
    """Go on from the newest checkpoint of `out`."""
    dry_run: bool = False
    """Print the resolved recipe and stop."""


def run(arguments: list[str]) -> int:
    """ptune train RECIPE [options]"""
    return with_recipe("train", train, arguments)


def with_recipe(command: str, run: Callable[..., int], arguments: list[str]) -> int:
    """Runs a command whose first argument is a recipe: `run(recipe, options, program=…)`."""
    if not arguments or arguments[0].startswith("-"):
        names = ", ".join(shipped())
        known = f"RECIPE is a .py file, a run's recipe.yaml, or a shipped recipe: {names}"
        if arguments[:1] in (["-h"], ["--help"]):
            kinds = ", ".join(task.recipe_name for task in TASKS)
            print(f"usage: ptune {command} RECIPE [options]\n\n{known}\nIts task is one of {kinds}.\n")
            return run(Recipe(), arguments, program=f"ptune {command} RECIPE")
        raise UsageError(f"usage: ptune {command} RECIPE [options]. {known}")
    return run(read_recipe(arguments[0]), arguments[1:], program=f"ptune {command} {arguments[0]}")


def train(recipe: Recipe, arguments: list[str], *, program: str) -> int:
    """Trains `recipe` as changed by options. Exit code 130 where it was interrupted and can be resumed."""
    options = resolve(recipe, arguments, program, TrainOptions)
    recipe = recipe_in(options)
    if options.dry_run:
        print(yaml.safe_dump(recipe.document(), sort_keys=False, allow_unicode=True), end="")
        return 0
    from ptune.fine_tune import train as train_run

    out = options.out or Path("runs") / recipe.name
    done = train_run(recipe, out, resume=options.resume, command=f"{program} {shlex.join(arguments)}".strip())
    if done.record().status == "interrupted":
        return 130
    if os.environ.get("RANK", "0") == "0":  # of several processes only the first speaks
        say_next(f"ptune evaluate {shown(out)}")
    return 0


def resolve(recipe: Recipe, arguments: list[str], program: str, kind: type[Options]) -> Options:
    """`recipe` with the options of the command line, `kind`'s own among them.

    Exits with 2 where an option is unknown or malformed.
    """
    default = kind(**{name: getattr(recipe, name) for name in Recipe.model_fields})
    try:
        options = tyro.cli(
            kind,
            default=default,
            args=arguments,
            prog=program,
            config=(tyro.conf.AvoidSubcommands,),
        )
    except ValidationError as error:
        raise RecipeError(explain(error)) from None
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


def read_recipe(named: str) -> Recipe:
    """A recipe by path, by run folder, or by the name of one that ships with ptune. Raises: RecipeError."""
    path = Path(named)
    if path.is_dir() and (path / "recipe.yaml").is_file():
        path = path / "recipe.yaml"
    if path.suffix in (".yaml", ".yml"):
        return Recipe.load(path)
    if path.is_file():
        return of_module(path)
    if named in shipped():
        spec = importlib.util.find_spec(f"ptune_recipes.{named}")
        assert spec is not None
        assert spec.origin is not None
        return of_module(Path(spec.origin))
    if path.suffix == ".py" or "/" in named:
        raise RecipeError(f"there is no recipe {named}")
    raise RecipeError(f"no recipe {named!r}{nearest(named, shipped())}")


def of_module(path: Path) -> Recipe:
    """The `recipe` that a Python file defines."""
    spec = importlib.util.spec_from_file_location(f"recipe_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ValidationError as error:
        raise RecipeError(f"{path}: {explain(error)}") from None
    except (SyntaxError, ImportError, NameError, TypeError, AttributeError) as error:
        raise RecipeError(f"{path} cannot be run: {type(error).__name__}: {error}") from None
    recipe = getattr(module, "recipe", None)
    if not isinstance(recipe, Recipe):
        raise RecipeError(f"{path} defines no `recipe = Recipe(...)`")
    return recipe


def shipped() -> list[str]:
    """Names of the recipes that ship with ptune."""
    spec = importlib.util.find_spec("ptune_recipes")
    places = list(spec.submodule_search_locations or []) if spec else []
    return sorted(module.name for module in pkgutil.iter_modules(places))
