"""What happens to examples that are longer than the model is trained on."""

from __future__ import annotations

from typing import Literal

from ptune.codecs.chat import Example

Policy = Literal["error", "truncate", "drop", "split"]


def fit(example: Example, limit: int, policy: Policy) -> list[Example]:
    """The examples of at most `limit` tokens that an example becomes; those without a target that
    can be predicted are left out (the first token never can).

    truncate keeps the start, split makes consecutive windows, drop keeps nothing; error is for the caller to raise.
    """
    if len(example) <= limit:
        pieces = [example]
    elif policy == "split":
        # Each window begins with the last token of the one before, so that its first target follows something.
        pieces = [_cut(example, start, start + limit) for start in range(0, len(example) - 1, limit - 1)]
    else:
        pieces = [_cut(example, 0, limit)] if policy == "truncate" else []
    return [piece for piece in pieces if any(piece.targets[1:])]


def _cut(example: Example, start: int, end: int) -> Example:
    return Example(example.ids[start:end], (False, *example.targets[start + 1 : end]))
