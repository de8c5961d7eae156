"""ptune.recipe: a recipe by name or path, with changed fields."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias, TypedDict, Unpack

from pydantic import ValidationError

from ptune.config.recipe import (
    Backbone,
    Data,
    Evaluate,
    Plan,
    Recipe,
    Train,
    kind_named,
)
from ptune.config.task_spec import TaskSpec
from ptune.config.wrong_field import explain, nearest
from ptune.errors import RecipeError
from ptune.formats.run import Run
from ptune.methods import Method
from ptune.spec import Spec

RecipeSource: TypeAlias = Recipe | Run | str | Path
"""A recipe, a run with the recipe, the name of a shipped recipe, or a path."""
Fields: TypeAlias = Mapping[str, Any]
"""Fields of a part of the recipe to change, by name."""


class Parts(TypedDict, total=False):
    """Parts of a recipe to change: whole parts, or only some of their fields."""

    name: str
    task: TaskSpec | Fields
    backbone: Backbone | Fields | str
    method: Method | Fields
    train: Train | Fields
    evaluate: Evaluate | Fields
    plan: Plan | Fields


class Changes(Parts, total=False):
    """Parts of a recipe to change, and its files."""

    data: Data | Fields


def recipe(source: RecipeSource, **changes: Unpack[Changes]) -> Recipe:
    """A recipe by name or path, with changes: `recipe("chat_lora", train={"lr": 1e-3, "max_steps": 50})`.

    A part may be replaced (`method=ptune.Full()`) or changed in some fields; `backbone` may be a model's name.
    Raises: RecipeError for an unknown recipe, a field that does not exist or a value that is not allowed.
    """
    base = _read(source)
    parts: dict[str, Any] = {name: getattr(base, name) for name in Recipe.model_fields}
    for name, value in changes.items():
        if name not in parts:
            raise RecipeError(f"a recipe has no {name!r}{nearest(name, parts)}")
        parts[name] = _changed(name, parts[name], value)
    try:
        return Recipe(**parts)
    except ValidationError as error:
        raise RecipeError(explain(error, Recipe)) from None


def _read(source: RecipeSource) -> Recipe:
    if isinstance(source, Recipe):
        return source
    if isinstance(source, Run):
        return Recipe.load(source.recipe_path)
    from ptune.config.read_recipe import read_recipe

    return read_recipe(str(source))


def _changed(name: str, before: Any, value: Any) -> Any:
    """The part `name` with the fields in `value`. Raises: RecipeError."""
    if name == "backbone" and isinstance(value, str):
        value = {"model": value}
    if not isinstance(value, Mapping) or not isinstance(before, Spec):
        return value
    kind, fields = type(before), {**value}
    if name in ("method", "task") and "kind" in fields:
        kind = kind_named(name, str(fields.pop("kind")))
    for field in fields:
        if field not in kind.model_fields:
            raise RecipeError(f"{name}.{field}: no such field{nearest(field, kind.model_fields)}")
    kept = before.model_dump() if kind is type(before) else {}
    try:
        return kind.model_validate({**kept, **fields})
    except ValidationError as error:
        raise RecipeError(explain(error, kind, f"{name}.")) from None
