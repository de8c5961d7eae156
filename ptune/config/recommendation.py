"""The task fields of a recommendation recipe. Torch-free."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from ptune.config.columns import InteractionColumns
from ptune.config.retrieval import Embedding


class Recommendation(Embedding):
    """The next item for a user. Columns: `user`, `item` and optionally `time`. Learns vectors of titles, close for items
    that the same user had, and counts which items occur together in histories."""

    columns: InteractionColumns = InteractionColumns()  # type: ignore[assignment]  # not pairs of texts, as its parent's
    items: Path = Path("sample:debian_items")
    """The catalogue. Columns: `item` and `title`."""
    withheld: int = Field(default=0, ge=0)
    """Number of items to keep out of training, to measure how well new items are found by their titles."""
    max_length: int = Field(default=64, ge=4)
    """Longest title, in tokens."""
