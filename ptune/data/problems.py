"""Collects all problems of one file, to report them at once."""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass, field

from ptune.errors import DataError

_SHOWN = 5
FEW = 5
"""Rows of a kind whose numbers are kept."""
_MOST_KINDS = 1000  # most kinds to keep of a thoroughly broken file
_VALUES = re.compile(r"0x[0-9a-f]+|\d+|'[^']*'|\"[^\"]*\"")


@dataclass
class Problems:
    """Unusable rows of a file. unit: "line" or "row"."""

    file: str
    unit: str = "line"
    count: int = 0  # unusable rows
    _kinds: dict[str, tuple[tuple[int, ...], int]] = field(default_factory=dict)
    """Reason -> the first few rows, number of rows."""

    def add(self, number: int, reason: str) -> None:
        """Records that row `number`, counted from 1, cannot be used."""
        self.count += 1
        if reason in self._kinds or len(self._kinds) < _MOST_KINDS:
            rows, count = self._kinds.get(reason, ((), 0))
            self._kinds[reason] = (rows if len(rows) == FEW else (*rows, number), count + 1)

    def reasons(self) -> list[tuple[str, int, int]]:
        """Each reason with its first row and the number of rows."""
        return [(reason, rows[0], count) for reason, (rows, count) in self._kinds.items()]

    def kinds(self, leave_out: Container[str] = ()) -> list[tuple[str, tuple[int, ...], int]]:
        """Each reason with its first few rows and the number of rows; one for all that differ only in numbers and quotations."""
        kinds: dict[str, tuple[str, tuple[int, ...], int]] = {}
        for reason, (rows, count) in self._kinds.items():
            if reason not in leave_out:
                first_reason, others, before = kinds.get(kind_of(reason), (reason, (), 0))
                kinds[kind_of(reason)] = (first_reason, (*others, *rows)[:FEW], before + count)
        return list(kinds.values())

    def raise_if_any(self, total: int) -> None:
        """Raises: DataError that names the first rows with problems, and their number of `total`."""
        if not self.count:
            return
        kinds = sorted(self._kinds.items(), key=lambda kind: kind[1][0][0])
        if self.count == 1 and self.unit == "line":
            reason, (rows, _) = kinds[0]
            raise DataError(reason, file=self.file, line=rows[0])
        shown = [self._told(reason, rows[0], count) for reason, (rows, count) in kinds[:_SHOWN]]
        more = [f"… and {len(kinds) - _SHOWN} more kinds of problem"] if len(kinds) > _SHOWN else []
        message = f"{self.count} of {total} {self.unit}s cannot be used\n  " + "\n  ".join(shown + more)
        raise DataError(message, file=self.file)

    def _told(self, reason: str, first: int, count: int) -> str:
        more = "" if count == 1 else f" (and {count - 1} more like it)"
        return f"{self.unit} {first}: {reason}{more}"


def kind_of(reason: str) -> str:
    """A reason without its numbers and quotations."""
    return _VALUES.sub("", reason)
