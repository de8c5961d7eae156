"""The recipes that ship with ptune, and what each is for: the first line of its file."""

from __future__ import annotations

import ast
import importlib.util
import pkgutil
from pathlib import Path


def shipped() -> list[str]:
    """Names of the recipes that ship with ptune."""
    spec = importlib.util.find_spec("ptune_recipes")
    places = list(spec.submodule_search_locations or []) if spec else []
    return sorted(module.name for module in pkgutil.iter_modules(places))


def file_of(name: str) -> Path:
    """The file of a shipped recipe."""
    spec = importlib.util.find_spec(f"ptune_recipes.{name}")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin)


def listed() -> str:
    """A line for each recipe that ships with ptune: its name and what it is for."""
    names = shipped()
    width = max(map(len, names), default=0)
    return "\n".join(f"  {name:<{width}}  {_purpose(file_of(name))}" for name in names)


def _purpose(file: Path) -> str:
    """The first line of a recipe's docstring; the recipe is not run."""
    return (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").partition("\n")[0]
