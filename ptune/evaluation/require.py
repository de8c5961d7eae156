"""Requirements: `--require accuracy>=0.85`. A run that misses one fails its evaluation, and is not exported."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ptune.errors import PtuneError, UsageError
from ptune.evaluation.classification.results import OF_A_HUNDRED
from ptune.formats.run import Run
from ptune.formats.whole_write import read_json

_COMPARES = {
    ">=": lambda value, limit: value >= limit,
    "<=": lambda value, limit: value <= limit,
    ">": lambda value, limit: value > limit,
    "<": lambda value, limit: value < limit,
}
_FORM = re.compile(r"^\s*(?P<name>.+?)\s*(?P<sign>>=|<=|>|<)\s*(?P<limit>\S+)\s*$")


@dataclass(frozen=True)
class Requirement:
    """A figure and its limit."""

    name: str
    sign: str
    limit: float

    @classmethod
    def parse(cls, text: str) -> Requirement:
        """Reads NAME>=NUMBER (or <=, >, <). Raises: UsageError."""
        match = _FORM.match(text)
        try:
            if match is not None:
                return cls(match["name"], match["sign"], _number(match["limit"], match["name"]))
        except ValueError:
            pass
        raise UsageError(
            f"--require {text!r}: expected NAME>=NUMBER, as in accuracy>=0.85 or loss<=2 or f1>=80%"
        )

    def checked(self, metrics: Mapping[str, float]) -> dict[str, Any]:
        """The result for evaluation.json. Raises: UsageError for an unknown figure, listing the known ones."""
        if self.name not in metrics:
            raise UsageError(
                f"--require {self}: there is no figure {self.name!r}; there are {', '.join(metrics)}"
            )
        value = metrics[self.name]
        return {
            "name": self.name,
            "sign": self.sign,
            "limit": self.limit,
            "value": value,
            "passed": bool(_COMPARES[self.sign](value, self.limit)),
        }

    def __str__(self) -> str:
        return f"{self.name}{self.sign}{self.limit:g}"


def _number(text: str, name: str) -> float:
    """A limit; per cent of 1, or of the hundred that a figure such as chrF is out of. Raises: ValueError."""
    each = 1 if name in OF_A_HUNDRED else 100
    number = float(text[:-1]) / each if text.endswith("%") else float(text)
    if math.isnan(number):
        raise ValueError
    return number


def parsed(texts: Sequence[str]) -> list[Requirement]:
    """Parses all requirements before anything is computed. Raises: UsageError."""
    return [Requirement.parse(text) for text in texts]


def refuse_unknown(
    requirements: Sequence[Requirement],
    figures: Sequence[str],
    of_a_label: Sequence[str] = (),
    labels: Sequence[str] = (),
) -> None:
    """Checks names before anything is computed: one of `figures`, or one of `of_a_label` followed by / and one of `labels`.

    Raises: UsageError that lists the valid names.
    """
    for requirement in requirements:
        name, of_one, label = requirement.name.partition("/")
        known = name in of_a_label and label in labels if of_one else name in figures
        if not known:
            each = ", ".join(f"{name}/LABEL" for name in of_a_label)
            more = f", and of a label {each}, where LABEL is {', '.join(labels)}" if of_a_label else ""
            raise UsageError(
                f"--require {requirement}: there is no figure {requirement.name!r}; there are {', '.join(figures)}{more}"
            )


def sentence(checked: Mapping[str, Any]) -> str:
    """One line: name, value, limit."""
    fate = "kept" if checked["passed"] else "MISSED"
    return (
        f"require {checked['name']} {checked['sign']} {checked['limit']:g}: is {checked['value']:.4f}, {fate}"
    )


def missed(evaluation: Mapping[str, Any]) -> list[str]:
    """One line for each requirement of evaluation.json that was missed."""
    return [sentence(one) for one in evaluation.get("requirements", []) if not one["passed"]]


def refuse_failed(run: Run) -> None:
    """Raises: PtuneError if the run's evaluation misses a requirement. A run without an evaluation passes."""
    if not run.evaluation_path.is_file():
        return
    if lines := missed(read_json(run.evaluation_path)):
        raise PtuneError(
            f"{run.folder} may not be exported, it missed what was required of it: {'; '.join(lines)}. "
            f"Train it further, or evaluate it again with other requirements: ptune evaluate {run.folder}"
        )
