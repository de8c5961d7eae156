"""One reward: a function with its name and weight, whose results are checked."""

from __future__ import annotations

import inspect
import math
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ptune.errors import PtuneError
from ptune.rewards.by_column import ByColumn

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
        self.check_columns(columns)
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

    def check_columns(self, columns: Iterable[str]) -> None:
        """Raises: RewardError for a column that the function needs and that is not among these."""
        there = [*columns]
        missing = [name for name in self._needed() if name not in there]
        if missing:
            found = ", ".join(there) or "none beside the prompt"
            raise RewardError(f"{self}: it needs the column {missing[0]!r}, and the rows have {found}")

    def _needed(self) -> list[str]:
        """The columns without which the function cannot be called."""
        if isinstance(self.function, ByColumn):
            return [self.function.column]
        return [
            parameter.name
            for parameter in self._parameters() or ()
            if parameter.default is parameter.empty
            and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
            and parameter.name not in GIVEN
        ]

    def _accepted(self, given: dict[str, Any]) -> dict[str, Any]:
        """The arguments that the function takes."""
        parameters = self._parameters()
        if parameters is None or any(one.kind is one.VAR_KEYWORD for one in parameters):
            return given
        names = {parameter.name for parameter in parameters}
        return {name: value for name, value in given.items() if name in names}

    def _parameters(self) -> list[inspect.Parameter] | None:
        """None: it does not tell."""
        try:
            return [*inspect.signature(self.function).parameters.values()]
        except (TypeError, ValueError):  # of some functions written in C
            return None

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
