"""A recipe by what a user calls it: a file, a run's folder, or the name of one that ships with ptune."""

from __future__ import annotations

import difflib
import importlib.util
from pathlib import Path

from pydantic import ValidationError

from ptune.config.recipe import Recipe
from ptune.config.shipped import file_of, listed, shipped
from ptune.config.wrong_field import explain
from ptune.errors import RecipeError


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
        return of_module(file_of(named))
    if path.suffix == ".py" or "/" in named:
        raise RecipeError(
            f"there is no recipe {named}: `ptune init` writes one, and `ptune train` lists those that ship"
        )
    close = difflib.get_close_matches(named, shipped(), n=1)
    known = f"did you mean {close[0]!r}?" if close else f"these ship with ptune:\n{listed()}"
    raise RecipeError(f"no recipe {named!r}; {known}")


def of_module(path: Path) -> Recipe:
    """The `recipe` that a Python file defines."""
    spec = importlib.util.spec_from_file_location(f"recipe_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ValidationError as error:
        raise RecipeError(f"{path}: {explain(error, Recipe)}") from None
    except (SyntaxError, ImportError, NameError, TypeError, AttributeError) as error:
        raise RecipeError(f"{path} cannot be run: {type(error).__name__}: {error}") from None
    recipe = getattr(module, "recipe", None)
    if not isinstance(recipe, Recipe):
        raise RecipeError(f"{path} defines no `recipe = Recipe(...)`")
    return recipe
