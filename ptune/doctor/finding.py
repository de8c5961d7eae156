"""Findings on the data, and the rules that make them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ptune.data.problems import FEW

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Place:
    """A place in the data: a file, a line or row in it, counted from 1, and the image named there."""

    file: str
    number: int | None = None
    unit: str = "line"
    image: str | None = None

    def __str__(self) -> str:
        if self.number is None:
            return self.file
        row = f":{self.number}" if self.unit == "line" else f", {self.unit} {self.number}"
        return f"{self.file}{row}" + (f" ({self.image})" if self.image else "")

    def described(self) -> dict[str, Any]:
        """The place in JSON types."""
        row = {} if self.number is None else {self.unit: self.number}
        return {"file": self.file, **row} | ({"image": self.image} if self.image else {})


@dataclass(frozen=True)
class Finding:
    """A defect: first at `place`, at `count` places in all. message: the defect, its value, and what to do."""

    rule: str
    severity: Severity
    message: str
    place: Place | None = None
    count: int = 1
    others: tuple[int, ...] = ()  # the next few places in the same file: their numbers

    def where(self) -> str:
        """All that is known of the places: "data.csv:42, 57 and 3 more"; empty where it is not a matter of places."""
        if self.place is None:
            return ""
        listed = ", ".join(map(str, (self.place, *self.others)))
        more = self.count - 1 - len(self.others)
        return f"{listed} and {more:,} more" if more > 0 else listed

    def described(self) -> dict[str, Any]:
        """The finding in JSON types."""
        return {
            "rule": self.rule,
            "severity": self.severity,
            "place": None if self.place is None else self.place.described(),
            "count": self.count,
            "others": list(self.others),
            "message": self.message,
        }


@dataclass(frozen=True)
class Rule:
    """A kind of defect. severity: the highest possible. The docstring of `check` describes it and its harm."""

    id: str  # in kebab-case
    severity: Severity
    check: Callable[..., Any]


@dataclass
class Tally:
    """Counts the findings of each rule in each file, and keeps the first."""

    _found: dict[tuple[Rule, str], list[tuple[Place, str]]] = field(default_factory=dict)
    _counts: Counter[tuple[Rule, str]] = field(default_factory=Counter)

    def add(self, rule: Rule, place: Place, message: str) -> None:
        """Counts a finding of the rule at a place."""
        self._counts[rule, place.file] += 1
        found = self._found.setdefault((rule, place.file), [])
        if len(found) < FEW:
            found.append((place, message))

    def findings(self) -> list[Finding]:
        """One finding per rule and file."""
        return [
            Finding(
                rule.id,
                rule.severity,
                found[0][1],
                found[0][0],
                self._counts[rule, file],
                _numbers(found[1:]),
            )
            for (rule, file), found in self._found.items()
        ]


def _numbers(found: Sequence[tuple[Place, str]]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(place.number for place, _ in found if place.number is not None))


def in_order(findings: Iterable[Finding], rules: Sequence[Rule]) -> list[Finding]:
    """Sorts findings: errors first, then in the order of the rules."""
    order = {rule.id: at for at, rule in enumerate(rules)}
    return sorted(findings, key=lambda finding: (finding.severity != "error", order[finding.rule]))
