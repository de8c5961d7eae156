"""ptune doctor RECIPE"""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Annotated

import tyro

from ptune.cli.parse import say_next
from ptune.cli.train import recipe_in, resolve, with_recipe
from ptune.config.recipe import Recipe
from ptune.config.tasks import task_of
from ptune.kinds import imported

if TYPE_CHECKING:
    from ptune.doctor.examined import Examined


class DoctorOptions(Recipe):
    """Every field of the recipe, and how to print what was found."""

    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON instead of tables."""


def run(arguments: list[str]) -> int:
    """ptune doctor RECIPE [options]"""
    return with_recipe("doctor", doctor, arguments)


def doctor(recipe: Recipe, arguments: list[str], *, program: str) -> int:
    """Examines the data of `recipe` as changed by options. Exit code 1 where there is an error."""
    options = resolve(recipe, arguments, program, DoctorOptions)
    recipe = recipe_in(options)
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    examined: Examined = imported(task_of(recipe.task).doctor)(recipe)
    if options.as_json:
        console.out(json.dumps(examined.described(), ensure_ascii=False, indent=2), highlight=False)
    else:
        examined.show(console)
        if not examined.has_errors:
            again = [argument for argument in arguments if argument not in ("--json", "--no-json")]
            say_next(f"{program.replace(' doctor ', ' train ', 1)} {shlex.join(again)}".rstrip())
    return int(examined.has_errors)
