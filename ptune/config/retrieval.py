"""The task fields of a retrieval recipe. Torch-free."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from ptune.config.columns import PairColumns
from ptune.config.task_spec import TaskSpec

RELEVANT = "relevant"
"""The one label of a reranker."""


class Embedding(TaskSpec):
    """A vector for a text, close to those of related texts. Columns: `anchor`, `positive` and optionally `negative`."""

    columns: PairColumns = PairColumns()
    pooling: Literal["mean", "cls", "last"] = "mean"
    """How token vectors become the text's vector: their mean, the first, or the last (causal models)."""
    normalize: bool = True
    """Whether to scale vectors to length 1."""
    dimensions: tuple[int, ...] = ()
    """Matryoshka sizes: the loss is averaged over the full vector and its first N numbers for each size N, so that each prefix works alone."""
    temperature: float = Field(default=0.05, gt=0)
    """Divides the cosines in the loss: the lower, the more the nearest wrong passages matter."""
    max_length: int = Field(default=128, ge=4)
    """Longest text, in tokens."""
    on_overlong: Literal["error", "truncate", "drop"] = "truncate"
    """What to do with a row whose text is longer than `max_length`; their number is reported."""

    @field_validator("dimensions")
    @classmethod
    def _sizes(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if any(size < 1 for size in sizes):
            raise ValueError("a size is 1 or more")
        if len(set(sizes)) < len(sizes):
            raise ValueError("a size is named twice")
        return tuple(sorted(sizes, reverse=True))


class Reranking(TaskSpec):
    """A score for a query and a passage, read together. Columns: `anchor`, `positive` and optionally `negative`."""

    columns: PairColumns = PairColumns()
    sampled: int = Field(default=1, ge=0)
    """Number of passages from other rows used as wrong ones for each right one, besides the file's own negatives."""
    max_length: int = Field(default=256, ge=8)
    """Longest pair, in tokens; in a longer pair the longer text is cut."""
    on_overlong: Literal["error", "truncate", "drop"] = "truncate"
    """What to do with a longer pair; their number is reported."""
