"""One reward: a function with its name and weight, whose results are checked."""

from __future__ import annotations

import inspect
import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ptune.errors import PtuneError

Function: TypeAlias = Callable[..., Sequence[float | None]]
"""Called by keywords: prompts, completions and each column of the rows, all lists of one length. None: no opinion about a row."""
GIVEN = ("prompts", "completions")


class RewardError(PtuneError):
    """A reward function failed, or returned something else than a number for each answer."""


@dataclass(frozen=True)
class Reward:
    """name: as in the journal. weight: its share of the sum of all."""

    name: str
    weight: float
    function: Function

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[Any], columns: Mapping[str, Sequence[Any]]
    ) -> list[float | None]:
        """Scores answers, before the weight; None where the function has no opinion.

        prompts: lists of messages, or texts. completions: lists of one message, or texts. columns: of the rows, a value each.
        Raises: RewardError that says which function, which answer, and what came back.
        """
        given = {**columns, "prompts": prompts, "completions": completions}
        try:
            found = self.function(**self._accepted(given))
        except RewardError as error:
            raise RewardError(f"{self}: {error}") from None
        except Exception as error:
            raise RewardError(f"{self} raised {type(error).__name__}{self._line(error)}: {error}") from error
        return self._checked(found, len(completions))

    def __str__(self) -> str:
        return f"reward {self.name!r}{_place(self.function)}"

    def _accepted(self, given: dict[str, Any]) -> dict[str, Any]:
        """The arguments that the function takes. Raises: RewardError for a column that it needs and that is not there."""
        try:
            parameters = inspect.signature(self.function).parameters.values()
        except (TypeError, ValueError):  # of some functions written in C
            return given
        missing = [
            parameter.name
            for parameter in parameters
            if parameter.default is parameter.empty
            and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
            and parameter.name not in given
        ]
        if missing:
            raise RewardError(no_column(missing[0], given))
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            return given
        names = {parameter.name for parameter in parameters}
        return {name: value for name, value in given.items() if name in names}

    def _checked(self, found: Any, count: int) -> list[float | None]:
        if isinstance(found, str | bytes | Mapping) or not hasattr(found, "__len__"):
            raise RewardError(f"{self} returned {_shown(found)}, and has to return a list of {count} numbers")
        values = list(found)
        if len(values) != count:
            raise RewardError(f"{self} returned {len(values)} numbers for {count} answers")
        return [self._number(value, at, count) for at, value in enumerate(values, 1)]

    def _number(self, value: Any, at: int, count: int) -> float | None:
        if value is None:
            return None
        try:
            number = math.nan if isinstance(value, str | bytes) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise RewardError(
                f"{self} returned {_shown(value)} for answer {at} of {count}, and has to return a finite number or None"
            )
        return number

    def _line(self, error: Exception) -> str:
        """Where in the function's own file it was raised."""
        file = _file(self.function)
        lines = [
            frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file
        ]
        return f" in line {lines[-1]}" if lines else ""


def no_column(name: str, given: Mapping[str, Any]) -> str:
    """What is said where the rows lack a column."""
    columns = ", ".join(column for column in given if column not in GIVEN) or "none beside the prompt"
    return f"it needs the column {name!r}, and the rows have {columns}"


def column_of(columns: Mapping[str, Sequence[Any]], name: str) -> Sequence[Any]:
    """A column by its name. Raises: RewardError where the rows lack it."""
    if name not in columns:
        raise RewardError(no_column(name, columns))
    return columns[name]


def text_of(completion: Any) -> str:
    """The text of an answer, whether it is a text or a list of messages."""
    if isinstance(completion, str):
        return completion
    content = completion[-1].get("content") if completion else None
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content if isinstance(part, dict))
    return content or ""


def _place(function: Function) -> str:
    """` (FILE:LINE)` of a function outside this package."""
    file = _file(function)
    if file is None or Path(file).parent == Path(__file__).parent:
        return ""
    code = getattr(_plain(function), "__code__", None)
    return f" ({file}{'' if code is None else f':{code.co_firstlineno}'})"


def _file(function: Function) -> str | None:
    try:
        return inspect.getsourcefile(_plain(function))
    except TypeError:  # of functions written in C
        return None


def _plain(function: Function) -> Any:
    """What was written with `def`, of an object that can be called."""
    function = inspect.unwrap(function)
    return function if inspect.isroutine(function) else type(function).__call__


def _shown(value: Any, most: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}…"
