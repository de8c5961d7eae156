"""Fits examples to the length limit, and checks that some are left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from ptune.codecs.chat import Example
from ptune.config.recipe import Data
from ptune.errors import DataError

Policy = Literal["error", "truncate", "drop", "split"]


def fit(example: Example, limit: int, policy: Policy) -> list[Example]:
    """Fits an example into examples of at most `limit` tokens; those without a predictable target are left out (the
    first token cannot be predicted).

    truncate keeps the start, split makes consecutive windows, drop keeps nothing; error is raised by the caller.
    """
    if len(example) <= limit:
        pieces = [example]
    elif policy == "split":
        # Each window begins with the last token of the one before, so that its first target can be predicted.
        pieces = [_cut(example, start, start + limit) for start in range(0, len(example) - 1, limit - 1)]
    else:
        pieces = [_cut(example, 0, limit)] if policy == "truncate" else []
    return [piece for piece in pieces if any(piece.targets[1:])]


@dataclass
class RowLengths:
    """How long the rows of a split were, and what became of those that are too long."""

    lengths: Counter[int] = field(default_factory=Counter)  # tokens, before cutting -> rows
    overlong: int = 0
    left_out: int = 0
    longest: tuple[int, str] = (0, "")  # tokens and place of the longest row

    def count(self, length: int, place: str, *, too_long: bool) -> None:
        """Counts a row; of a row of several texts, `length` is that of the longest."""
        self.lengths[length] += 1
        self.longest = max(self.longest, (length, place), key=lambda known: known[0])
        self.overlong += too_long


def refuse_overlong(splits: Mapping[str, RowLengths], policy: Policy, limit: int | None, longer: str) -> None:
    """Raises: DataError if rows are too long and that is an error, or a split is left empty.

    longer: how rows exceed the limit, such as "are longer than".
    """
    overlong = sum(split.overlong for split in splits.values())
    if overlong and policy == "error":
        length, place = max((split.longest for split in splits.values()), key=lambda found: found[0])
        rows = sum(split.lengths.total() for split in splits.values())
        raise DataError(
            f"{overlong} of {rows} rows {longer} {limit} tokens (longest {length}, {place}); use --task.on-overlong"
            " truncate or drop, or raise --task.max-length up to the model's context"
        )
    for name, split in splits.items():
        if split.lengths and split.lengths.total() == split.left_out:
            raise DataError(f"no {name} example is left: all {longer} {limit} tokens ({policy}) or are empty")


def check_weights(data: Data, parts: Sequence[int]) -> None:
    """Raises: DataError if a file with a weight has no training examples left. parts: their number per file."""
    for path, weight, examples in zip(data.files, data.weights, parts, strict=False):
        if weight and not examples:
            raise DataError("has a weight, but no training example is left of it", file=str(path))


def _cut(example: Example, start: int, end: int) -> Example:
    return replace(example, ids=example.ids[start:end], targets=(False, *example.targets[start + 1 : end]))
