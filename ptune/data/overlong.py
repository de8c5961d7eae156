"""Fits examples to the length limit, and checks that some are left."""

from __future__ import annotations

from collections.abc import Sequence
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


def check_weights(data: Data, parts: Sequence[int]) -> None:
    """Raises: DataError if a file with a weight has no training examples left. parts: their number per file."""
    for path, weight, examples in zip(data.files, data.weights, parts, strict=False):
        if weight and not examples:
            raise DataError("has a weight, but no training example is left of it", file=str(path))


def _cut(example: Example, start: int, end: int) -> Example:
    return Example(example.ids[start:end], (False, *example.targets[start + 1 : end]))
