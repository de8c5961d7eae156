"""All that is wrong with one file, told at once."""

from __future__ import annotations

from dataclasses import dataclass, field

from ptune.errors import DataError

_SHOWN = 5


@dataclass
class Problems:
    """Rows of a file that cannot be used. `unit` is what a row is counted in: "line" or "row"."""

    file: str
    unit: str = "line"
    _rows: dict[str, list[int]] = field(default_factory=dict)  # reason -> numbers of the rows

    def add(self, number: int, reason: str) -> None:
        """Row `number`, counted from 1, cannot be used."""
        self._rows.setdefault(reason, []).append(number)

    @property
    def count(self) -> int:
        """Number of rows that cannot be used."""
        return sum(len(numbers) for numbers in self._rows.values())

    def raise_if_any(self, total: int) -> None:
        """Raises: DataError that names the first rows with a problem and how many of `total` there are."""
        if not self._rows:
            return
        [reason, numbers], *others = sorted(self._rows.items(), key=lambda item: item[1][0])
        if self.count == 1 and self.unit == "line":
            raise DataError(reason, file=self.file, line=numbers[0])
        shown = [self._told(reason, numbers), *(self._told(*other) for other in others[: _SHOWN - 1])]
        more = [f"… and {len(others) + 1 - _SHOWN} more kinds of problem"] if len(others) >= _SHOWN else []
        message = f"{self.count} of {total} {self.unit}s cannot be used\n  " + "\n  ".join(shown + more)
        raise DataError(message, file=self.file)

    def _told(self, reason: str, numbers: list[int]) -> str:
        more = "" if len(numbers) == 1 else f" (and {len(numbers) - 1} more like it)"
        return f"{self.unit} {numbers[0]}: {reason}{more}"
