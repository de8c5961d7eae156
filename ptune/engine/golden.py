"""Golden vectors: numbers that the exporting machine computed, recomputed at every start before the first answer.

Each kind of engine has its own cases in golden.json, which extend `Case`; recording them, comparing and refusing is done here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from ptune.errors import FormatError, ParityError
from ptune.formats.bundle import BASE

Values = npt.NDArray[np.floating[Any]]
TOLERANCE = 1e-3  # of a value: a logit or a log-probability
DIGITS = 6  # of a value in the file


class Case(BaseModel):
    """One input under one adapter, and its values. A kind names the fields of its file by aliases."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)
    quantity: ClassVar[str]
    """Of the values, with its article."""
    relative: ClassVar[bool] = False
    """Whether differences are relative to values above 1."""
    adapter: str
    input: Any
    values: list[Any]

    @property
    def described(self) -> str:
        """The input, as a message names it."""
        return f"of input {self.input}"


AnyCase = TypeVar("AnyCase", bound=Case)


class Golden(BaseModel, Generic[AnyCase]):
    """golden.json"""

    model_config = ConfigDict(frozen=True, extra="ignore")
    format: int = 1
    tolerance: float = TOLERANCE
    cases: list[AnyCase]

    def dump(self) -> dict[str, Any]:
        """The file's content."""
        return self.model_dump(by_alias=True)


def rounded(values: Values) -> list[Any]:
    """Values as the file holds them."""
    found: list[Any] = np.round(values.astype(np.float64), DIGITS).tolist()
    return found


def pairs(adapters: Sequence[str], inputs: int, most: int) -> list[tuple[int, str]]:
    """(input, adapter) of the cases to record: the first inputs under every adapter."""
    return [(index, adapter) for adapter in adapters for index in range(min(most, inputs))]


def served(golden: Golden[AnyCase], adapters: Collection[str]) -> list[AnyCase]:
    """The cases of the base and of adapters that have not been removed since."""
    return [case for case in golden.cases if case.adapter in (BASE, *adapters)]


def require_inputs(cases: Iterable[Case], inputs: int, path: object, where: str) -> None:
    """Raises: FormatError where a case refers to an input that does not exist."""
    if any(case.input >= inputs for case in cases):
        raise FormatError(f"{path} is damaged: it refers to an input that is not in {where}")


def replay(
    cases: Sequence[AnyCase], compute: Callable[[Sequence[AnyCase]], Sequence[Values]], tolerance: float
) -> float:
    """Computes the cases again and returns the worst difference; 0 where there are no cases.

    compute: returns each case's values here.
    Raises: ParityError that names the case whose difference is above the tolerance.
    """
    worst = 0.0
    for case, values in zip(cases, compute(cases), strict=True):
        off = _difference(case, values)
        if not off <= tolerance:  # also for NaN
            raise otherwise(case, f"{case.quantity} is off by {off:.2g}, more than {tolerance:g}")
        worst = max(worst, off)
    return worst


def otherwise(case: Case, how: str) -> ParityError:
    """The refusal of a machine whose numbers differ. how: what differs, as a clause."""
    return ParityError(
        "this machine computes otherwise than the one that exported the bundle: under "
        f"{case.adapter!r}, {case.described}, {how}. Export the bundle on a machine of this kind."
    )


def _difference(case: Case, values: Values) -> float:
    expected = np.array(case.values)
    if values.shape != expected.shape:
        return float("inf")
    scale = np.maximum(np.abs(expected), 1.0) if case.relative else 1.0
    return float((np.abs(values - expected) / scale).max())
