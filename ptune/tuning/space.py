"""The search space: `train.lr=log:1e-5..1e-3 method.r=4|8|16 train.epochs=1..3`. Torch-free, optuna-free.

FIELD=LOW..HIGH        a number in the range; whole bounds give whole numbers, 1.0..3.0 any number
FIELD=log:LOW..HIGH    the same on a logarithmic scale
FIELD=A|B|C            one of these: numbers, words, true, false, none
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from pydantic import ValidationError

from ptune.config.chat import Chat
from ptune.config.recipe import Recipe
from ptune.config.wrong_field import nearest
from ptune.errors import RecipeError, UsageError
from ptune.spec import Spec

_NUMBER = r"[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?"
_RANGE = re.compile(rf"(log:)?({_NUMBER})\.\.({_NUMBER})")
_WORDS = {"true": True, "false": False}
NONE = "none"  # the field's own word if it has one (backbone.quantize), else None

SECTIONS = ("train", "method", "backbone", "task")
_DIGITS_OF_PEOPLE = 10  # characters of a number that somebody wrote: 0.99999, 0.00015625
_LEFT_ALONE = {
    "train.seed": "it decides which examples validate, and the best of many seeds is luck",
    "train.tracker": "it changes nothing in the result",
}

Value: TypeAlias = bool | int | float | str


@dataclass(frozen=True)
class Range:
    """A number from low to high, both included."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    @property
    def corners(self) -> tuple[Value, ...]:
        """The values to validate against the recipe before anything runs."""
        return (self.low, self.high)

    def __str__(self) -> str:
        bounds = (f"{bound:d}" if self.whole else _with_point(bound) for bound in (self.low, self.high))
        return ("log:" if self.log else "") + "..".join(bounds)


@dataclass(frozen=True)
class Choice:
    """One of several values."""

    values: tuple[Value, ...]

    @property
    def corners(self) -> tuple[Value, ...]:
        return self.values

    def __str__(self) -> str:
        return "|".join(map(spelled, self.values))


Axis: TypeAlias = Range | Choice
Space: TypeAlias = dict[str, Axis]  # field of the recipe -> its values, in the given order


def parse(words: Sequence[str]) -> Space:
    """Parses `FIELD=VALUES` words. Raises: UsageError that names the field and what is wrong with its values."""
    space: Space = {}
    for word in words:
        field, equals, values = word.partition("=")
        if not equals or not field or not values:
            raise UsageError(
                f"--space {word!r}: expected FIELD=VALUES, as train.lr=log:1e-5..1e-3 or method.r=4|8|16"
            )
        if field in space:
            raise UsageError(f"--space {field} is given twice")
        space[field] = _axis(field, values)
    if not space:
        raise UsageError("--space is empty: say what to search, as --space train.lr=log:1e-5..1e-3")
    return space


def check(space: Space, recipe: Recipe, metric: str) -> None:
    """Validates every bound and choice against the recipe. Raises: UsageError, RecipeError that name field and value."""
    for field, axis in space.items():
        _check_field(field, recipe, metric)
        for value in axis.corners:
            changed(recipe, {field: value})


def changed(recipe: Recipe, values: Mapping[str, Value]) -> Recipe:
    """The recipe with some fields changed. Raises: RecipeError that names the field and its value."""
    sections: dict[str, dict[str, Value]] = {}
    for field, value in values.items():
        section, _, name = field.partition(".")
        sections.setdefault(section, {})[name] = value
    assignments = ", ".join(f"{field}={spelled(value)}" for field, value in values.items())
    parts: dict[str, Any] = {}
    try:
        for section, new in sections.items():
            parts[section] = _section(getattr(recipe, section), new)
        return Recipe(**{**dict(recipe), **parts})
    except ValidationError as error:
        problem = error.errors()[0]
        raise RecipeError(f"--space {assignments}: {problem['msg'].removeprefix('Value error, ')}") from None


def size(space: Space) -> int | None:
    """Number of points in the space; None if it is infinite."""
    counts = [_count(axis) for axis in space.values()]
    return None if None in counts else math.prod(count for count in counts if count is not None)


def spelled(value: Value) -> str:
    """A value in the syntax of a space; one of many digits, as a sampler draws them, by four."""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, float):
        return str(value)
    short = f"{value:.4g}"
    return short if float(short) == value or len(repr(value)) > _DIGITS_OF_PEOPLE else repr(value)


def _section(old: Spec, new: Mapping[str, Value]) -> Spec:
    """A section with new values; `none` means None unless it is one of the field's own words."""
    try:
        return type(old).model_validate({**dict(old), **new}, strict=True)
    except ValidationError:
        if NONE not in new.values():
            raise
    nothing = {name: None if value == NONE else value for name, value in new.items()}
    return type(old).model_validate({**dict(old), **nothing}, strict=True)


def _axis(field: str, values: str) -> Axis:
    if "|" in values:
        choices = tuple(_value(word) for word in values.split("|"))
        for word, value in zip(values.split("|"), choices, strict=True):
            if word == "" or ".." in word or (isinstance(value, float) and not math.isfinite(value)):
                raise UsageError(f"--space {field}={values}: {word!r} is not a valid choice")
        if len({(type(value), value) for value in choices}) < len(choices):
            raise UsageError(f"--space {field}={values}: a choice is given twice")
        return Choice(choices)
    match = _RANGE.fullmatch(values)
    if match is None:
        raise UsageError(
            f"--space {field}={values}: expected LOW..HIGH, log:LOW..HIGH or A|B|C; "
            f"a single value is an option: --{field} {values}"
        )
    log, *bounds = match.groups()
    whole = all(re.fullmatch(r"[+-]?\d+", bound) for bound in bounds)
    low, high = (int(bound) if whole else float(bound) for bound in bounds)
    if not math.isfinite(high) or not math.isfinite(low) or not low < high:
        raise UsageError(f"--space {field}={values}: {bounds[0]} must be less than {bounds[1]}")
    if log and low <= 0:
        raise UsageError(f"--space {field}={values}: a range of orders of magnitude must begin above 0")
    return Range(low, high, log=log is not None, whole=whole)


def _value(word: str) -> Value:
    if word in _WORDS:
        return _WORDS[word]
    if re.fullmatch(r"[+-]?\d+", word):
        return int(word)
    return float(word) if re.fullmatch(_NUMBER, word) else word


def _check_field(field: str, recipe: Recipe, metric: str) -> None:
    section, _, name = field.partition(".")
    if section not in SECTIONS or not name:
        why = {
            "data": ": trials must see the same examples to be compared",
            "evaluate": ": it changes nothing in training",
            "plan": ": it changes nothing in training",
        }
        raise UsageError(
            f"--space {field} cannot be searched{why.get(section, '')}; fields are those of {', '.join(SECTIONS)}"
        )
    known = list(type(getattr(recipe, section)).model_fields)
    if name not in known:
        raise UsageError(
            f"--space {field}: {type(getattr(recipe, section)).__name__} has no field {name!r}{nearest(name, known)}"
        )
    if field in _LEFT_ALONE:
        raise UsageError(f"--space {field} cannot be searched: {_LEFT_ALONE[field]}")
    other_targets = section == "task" or (field == "backbone.model" and isinstance(recipe.task, Chat))
    if other_targets and metric == "validation_loss":
        raise UsageError(
            f"--space {field} changes what the validation loss measures; search it by --metric validation_accuracy"
        )


def _count(axis: Axis) -> int | None:
    if isinstance(axis, Choice):
        return len(axis.values)
    return int(axis.high - axis.low) + 1 if axis.whole else None


def _with_point(bound: float) -> str:
    text = repr(float(bound))
    return text if "e" in text or "." in text else f"{text}.0"
