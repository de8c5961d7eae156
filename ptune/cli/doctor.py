"""ptune doctor RECIPE"""

from __future__ import annotations

import json
import shlex
from typing import Annotated

import tyro

from ptune.cli.parse import say_next
from ptune.cli.train import recipe_in, resolve, with_recipe
from ptune.recipe import Recipe


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

    from ptune.backbone.load import load_codec
    from ptune.doctor.examination import examine
    from ptune.doctor.show import document, show
    from ptune.tasks.chat.train import codec_for

    codec = codec_for(recipe.task, load_codec(recipe.backbone))
    examination = examine(recipe.data, recipe.task, codec, recipe.train.seed)
    console = Console(highlight=False, markup=False, emoji=False)
    if options.as_json:
        console.out(json.dumps(document(examination), ensure_ascii=False, indent=2), highlight=False)
    else:
        show(examination, console)
        if not examination.has_errors:
            again = [argument for argument in arguments if argument not in ("--json", "--no-json")]
            say_next(f"{program.replace(' doctor ', ' train ', 1)} {shlex.join(again)}".rstrip())
    return int(examination.has_errors)
