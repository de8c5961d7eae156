"""ptune script RECIPE"""

from __future__ import annotations

import shlex
from pathlib import Path

from ptune.cli.parse import say_next, shown
from ptune.cli.result import tell
from ptune.cli.train import recipe_in, resolve, with_recipe
from ptune.config.recipe import Recipe
from ptune.errors import UsageError
from ptune.formats.whole_write import write_text


class ScriptOptions(Recipe):
    """Every field of the recipe, and where the script goes."""

    out: Path | None = None
    """The script; default: NAME_trl.py."""
    overwrite: bool = False
    """Replace a script that is there already."""


def run(arguments: list[str]) -> int:
    """ptune script RECIPE [options]"""
    return with_recipe("script", script, arguments, ScriptOptions)


def script(recipe: Recipe, arguments: list[str], *, program: str) -> int:
    """Writes `recipe`, as changed by options, as a script of TRL's."""
    from ptune.foreign.trl_script import trl_script

    options = resolve(recipe, arguments, program, ScriptOptions)
    recipe = recipe_in(options)
    out = options.out or Path(f"{recipe.name}_trl.py")
    if out.exists() and not options.overwrite:
        raise UsageError(f"{shown(out)} is there already: name another with --out, or say --overwrite")
    command = f"{program} {shlex.join(arguments)}".strip()
    write_text(out, trl_script(recipe, command.removeprefix("ptune script ")))
    tell(script=out)
    print(f"written: {shown(out)}")
    say_next(f"python {shlex.quote(shown(out))}")
    return 0
