"""What a rule says about the data, and what a rule is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Place:
    """Where in the data: a file, the line or row in it, counted from 1, and the image that this one names."""

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
    """A defect: at `place` first, and at `count` places in all. `message` says what, which value and what to do."""

    rule: str
    severity: Severity
    message: str
    place: Place | None = None
    count: int = 1

    def described(self) -> dict[str, Any]:
        """The finding in JSON types."""
        return {
            "rule": self.rule,
            "severity": self.severity,
            "place": None if self.place is None else self.place.described(),
            "count": self.count,
            "message": self.message,
        }


@dataclass(frozen=True)
class Rule:
    """A kind of defect. severity: the worst that it can be. The docstring of `check` says what it is and why it matters."""

    id: str  # in kebab-case
    severity: Severity
    check: Callable[..., Any]


@dataclass
class Tally:
    """Counts what a rule finds in each file and keeps the first of it."""

    _found: dict[tuple[Rule, str], tuple[Place, str, int]] = field(default_factory=dict)

    def add(self, rule: Rule, place: Place, message: str) -> None:
        """The rule found something at a place."""
        first, said, count = self._found.get((rule, place.file), (place, message, 0))
        self._found[rule, place.file] = (first, said, count + 1)

    def findings(self) -> list[Finding]:
        """One a rule and file."""
        return [
            Finding(rule.id, rule.severity, message, place, count)
            for (rule, _), (place, message, count) in self._found.items()
        ]


def in_order(findings: Iterable[Finding], rules: Sequence[Rule]) -> list[Finding]:
    """Errors first, then in the order of the table of rules."""
    order = {rule.id: at for at, rule in enumerate(rules)}
    return sorted(findings, key=lambda finding: (finding.severity != "error", order[finding.rule]))
