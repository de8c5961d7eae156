"""From what a recipe asks for, such as `0.2*length:40` or `my_rewards.py:reward`, to rewards."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ptune.errors import RecipeError
from ptune.rewards.reward import Function, Reward
from ptune.rewards.table import SHIPPED

_WEIGHT = re.compile(r"\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)\s*\*\s*(.*)", re.DOTALL)
_MODULE = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*")


def rewards_of(asked: Sequence[str]) -> tuple[Reward, ...]:
    """Rewards by name: WEIGHT*NAME, where the weight is 1 if it is left out.

    asked: names of SHIPPED with what stands behind the colon, FILE.py:FUNCTION, or PACKAGE.MODULE:FUNCTION.
    Raises: RecipeError that says what is wrong and what there is.
    """
    if not asked:
        raise RecipeError(f"no reward is asked for; there are {_known()}")
    parts = [_weighed(text) for text in asked]
    if twice := [text for text, count in Counter(text for _, text in parts).items() if count > 1]:
        raise RecipeError(f"reward {twice[0]!r} is asked for twice: give it one weight")
    found = [(weight, text, *_function(text)) for weight, text in parts]
    names = Counter(name for _, _, name, _ in found)
    return tuple(
        Reward(name if names[name] == 1 else text, weight, function) for weight, text, name, function in found
    )


def _weighed(text: str) -> tuple[float, str]:
    """The weight, and what stands behind it."""
    match = _WEIGHT.fullmatch(text)
    weight, rest = (1.0, text.strip()) if match is None else (float(match[1]), match[2].strip())
    if not rest:
        raise RecipeError(f"reward {text!r} has no name; there are {_known()}")
    if not math.isfinite(weight) or weight == 0:
        raise RecipeError(f"reward {text!r}: its weight is {weight:g}, and has to be a number other than 0")
    return weight, rest


def _function(text: str) -> tuple[str, Function]:
    """The short name of a reward, and its function."""
    name, colon, argument = text.partition(":")
    if name in SHIPPED:
        return name, _shipped(name, argument if colon else None)
    place, colon, function = text.rpartition(":")
    if colon and place.endswith(".py"):
        return function, _member(text, _module_of_file(text, Path(place)), function)
    if colon and _MODULE.fullmatch(place) and _MODULE.fullmatch(function) and _is_module(place):
        return function, _member(text, _module(text, place), function)
    close = difflib.get_close_matches(name, SHIPPED, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else f"; there are {_known()}"
    raise RecipeError(f"there is no reward {name!r}{hint}")


def _is_module(name: str) -> bool:
    return "." in name or name in sys.modules or importlib.util.find_spec(name) is not None


def _shipped(name: str, argument: str | None) -> Function:
    module, _, function = SHIPPED[name].make.partition(":")
    make: Callable[[str | None], Function] = getattr(importlib.import_module(module), function)
    try:
        return make(argument)
    except ValueError as error:
        raise RecipeError(f"reward {name!r} is asked for as {SHIPPED[name].form}: {error}") from None


def _module_of_file(text: str, file: Path) -> Any:
    """A file as a module; what lies beside it can be imported by it."""
    if not file.is_file():
        raise RecipeError(f"reward {text!r}: there is no file {file}")
    spec = importlib.util.spec_from_file_location(f"ptune_rewards_{file.stem}", file.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    folder = str(file.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise RecipeError(
            f"reward {text!r}: {file} cannot be run: {type(error).__name__}: {error}"
        ) from error
    return module


def _module(text: str, name: str) -> Any:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise RecipeError(
            f"reward {text!r}: {name} cannot be imported: {type(error).__name__}: {error}"
        ) from error


def _member(text: str, module: Any, name: str) -> Function:
    found = getattr(module, name, None)
    if not callable(found) or isinstance(found, type):
        functions = [
            key for key, value in vars(module).items()
            if callable(value) and not isinstance(value, type) and getattr(value, "__module__", None) == module.__name__
        ]  # fmt: skip
        what = "no function" if found is None else f"a {type(found).__name__} and no function"
        there = f"there are {', '.join(functions)}" if functions else "it has none"
        raise RecipeError(f"reward {text!r}: there is {what} {name!r}; {there}")
    function: Function = found
    return function


def _known() -> str:
    return ", ".join([*(row.form for row in SHIPPED.values()), "FILE.py:FUNCTION", "PACKAGE.MODULE:FUNCTION"])
