"""What is written in a recipe's YAML file, before it is known to be a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ptune.errors import RecipeError


def read_document(path: Path) -> dict[str, Any]:
    """The fields of a recipe's file. Raises: RecipeError that says where it is no YAML, or cannot be read."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(
            f"cannot read the recipe {path}: there is no such file; `ptune init` writes one"
        ) from None
    except OSError as error:
        raise RecipeError(f"cannot read the recipe {path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"cannot read the recipe {path}: it is not UTF-8, from byte {error.start + 1} on"
        ) from None
    except yaml.YAMLError as error:
        raise RecipeError(f"cannot read the recipe {path}: {_where(error)}") from None
    except (
        ValueError,
        ArithmeticError,
        RecursionError,
    ) as error:  # of odd dates and numbers; of what is nested deeply
        said = "its values are nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise RecipeError(f"cannot read the recipe {path}: {said}") from None
    if not isinstance(value, dict):
        raise RecipeError(f"{path} is not a recipe: expected a mapping")
    return value


def _where(error: yaml.YAMLError) -> str:
    """The line at which YAML's grammar ends, and what is wrong there."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1} is no YAML: {error.problem}"
    return " ".join(str(error).split())
