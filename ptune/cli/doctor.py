"""ptune doctor RECIPE, and ptune doctor --model MODEL"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from pydantic import Field

from ptune.cli.parse import say_next
from ptune.cli.train import recipe_in, resolve, with_recipe
from ptune.config.recipe import Recipe
from ptune.config.tasks import task_of
from ptune.data.clean import write_clean_copies
from ptune.doctor.command_line import Follows, without
from ptune.kinds import imported

if TYPE_CHECKING:
    from ptune.doctor.examined import Examined

_OWN: dict[str, Follows] = {"--rows": "one", "--clean": "one", "--json": "nothing"}
"""Options that a training does not take."""
_FILES: dict[str, Follows] = {"--data.files": "several"}


class DoctorOptions(Recipe):
    """Every field of the recipe, and how to print what was found."""

    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON instead of tables."""
    rows: int = Field(default=0, ge=0, le=50)
    """With --json: so many training rows as the model sees them, token by token, with what it learns of each."""
    clean: Path | None = None
    """Write a copy of each training file into this folder, without rows that cannot be used and without copies of rows."""


def run(arguments: list[str]) -> int:
    """ptune doctor RECIPE [options], or ptune doctor --model MODEL"""
    if arguments and re.match(r"--model(=|$)", arguments[0]):
        from ptune.cli import doctor_model

        return doctor_model.run(arguments)
    return with_recipe("doctor", doctor, arguments, DoctorOptions)


def doctor(recipe: Recipe, arguments: list[str], *, program: str) -> int:
    """Examines the data of `recipe` as changed by options. Exit code 1 where there is an error.

    `--model` is `--backbone.model`, and what can be done with that model is said first.
    """
    words = [re.sub(r"^--model(?=$|=)", "--backbone.model", word) for word in arguments]
    options = resolve(recipe, words, program, DoctorOptions)
    recipe = recipe_in(options)
    model = _model(recipe, options.as_json) if words != arguments else {}
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    examined: Examined = imported(task_of(recipe.task).doctor)(recipe)
    cleaned = (
        [] if options.clean is None else write_clean_copies(recipe.data.files, recipe.task, options.clean)
    )
    if options.as_json:
        rows = {"rows": examined.rows(options.rows)} if options.rows and examined.rows is not None else {}
        copies = {"clean": [one.described() for one in cleaned]} if cleaned else {}
        console.out(
            json.dumps({**model, **examined.described(), **rows, **copies}, ensure_ascii=False, indent=2),
            highlight=False,
        )
    else:
        examined.show(console)
        for one in cleaned:
            console.print(
                f"{one.copy}: {one.kept:,} rows; left out: {one.unusable:,} unusable, {one.copies:,} copies of others"
                f"{'' if one.encoding == 'UTF-8' else f'; read as {one.encoding}'}"
            )
        again = without(words, _OWN)
        if not examined.has_errors:
            say_next(f"{program.replace(' doctor ', ' train ', 1)} {shlex.join(again)}".rstrip())
        elif cleaned:
            of_copies = ["--data.files", *(one.copy for one in cleaned)]
            say_next(f"{program} {shlex.join([*without(again, _FILES), *of_copies])}")
    return int(examined.has_errors)


def _model(recipe: Recipe, as_json: bool) -> dict[str, Any]:
    """What can be done with the recipe's model: printed, or for the JSON that is printed later."""
    from ptune.cli.doctor_model import shown
    from ptune.planning.model_check import check_model

    found = check_model(recipe.backbone)
    if not as_json:
        print(shown(found) + "\n")
    return {"model": found.described()}
