"""Collects all problems of one file, to report them at once."""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass, field

from ptune.errors import DataError

_SHOWN = 5
_MOST_KINDS = 1000  # most kinds to keep of a thoroughly broken file
_VALUES = re.compile(r"0x[0-9a-f]+|\d+|'[^']*'|\"[^\"]*\"")


@dataclass
class Problems:
    """Unusable rows of a file. unit: "line" or "row"."""

    file: str
    unit: str = "line"
    count: int = 0  # unusable rows
    _kinds: dict[str, tuple[int, int]] = field(default_factory=dict)  # reason -> first row, number of rows

    def add(self, number: int, reason: str) -> None:
        """Records that row `number`, counted from 1, cannot be used."""
        self.count += 1
        if reason in self._kinds or len(self._kinds) < _MOST_KINDS:
            first, count = self._kinds.get(reason, (number, 0))
            self._kinds[reason] = (first, count + 1)

    def reasons(self) -> list[tuple[str, int, int]]:
        """Each reason with its first row and the number of rows."""
        return [(reason, first, count) for reason, (first, count) in self._kinds.items()]

    def kinds(self, leave_out: Container[str] = ()) -> list[tuple[str, int, int]]:
        """As `reasons`, with one for all that differ only in numbers and quotations."""
        kinds: dict[str, tuple[str, int, int]] = {}
        for reason, first, count in self.reasons():
            if reason not in leave_out:
                first_reason, at, before = kinds.get(kind_of(reason), (reason, first, 0))
                kinds[kind_of(reason)] = (first_reason, at, before + count)
        return list(kinds.values())

    def raise_if_any(self, total: int) -> None:
        """Raises: DataError that names the first rows with problems, and their number of `total`."""
        if not self.count:
            return
        kinds = sorted(self._kinds.items(), key=lambda kind: kind[1][0])
        if self.count == 1 and self.unit == "line":
            reason, (number, _) = kinds[0]
            raise DataError(reason, file=self.file, line=number)
        shown = [self._told(reason, *numbers) for reason, numbers in kinds[:_SHOWN]]
        more = [f"… and {len(kinds) - _SHOWN} more kinds of problem"] if len(kinds) > _SHOWN else []
        message = f"{self.count} of {total} {self.unit}s cannot be used\n  " + "\n  ".join(shown + more)
        raise DataError(message, file=self.file)

    def _told(self, reason: str, first: int, count: int) -> str:
        more = "" if count == 1 else f" (and {count - 1} more like it)"
        return f"{self.unit} {first}: {reason}{more}"


def kind_of(reason: str) -> str:
    """A reason without its numbers and quotations."""
    return _VALUES.sub("", reason)
