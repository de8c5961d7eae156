"""What a recipe of recommendation may say. Torch-free."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from ptune.config.retrieval import Embedding


class Recommendation(Embedding):
    """The next item for a user, of rows of `user`, `item` and, if any, `time`: titles are learnt as vectors, near those of
    items that the same user had, and what stands together in histories is counted beside them."""

    items: Path = Path("sample:debian_items")
    """The catalogue: rows of `item` and `title`."""
    withheld: int = Field(default=0, ge=0)
    """So many items are taken out of all training, to measure how well new items are found by their titles."""
    max_length: int = Field(default=64, ge=4)
    """Longest title, in tokens."""
