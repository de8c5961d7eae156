"""What a recipe of retrieval may say. Torch-free."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from ptune.config.task_spec import TaskSpec

RELEVANT = "relevant"
"""The one label of a reranker."""


class Embedding(TaskSpec):
    """A vector for a text, near those of texts that belong to it: rows of `anchor`, `positive` and, if any, `negative`."""

    pooling: Literal["mean", "cls", "last"] = "mean"
    """Which token vectors make the text's: the mean of all, the first, or the last (of causal models)."""
    normalize: bool = True
    """Whether vectors have length 1."""
    dimensions: tuple[int, ...] = ()
    """Matryoshka sizes: the loss is the mean over the vector and its first so many numbers, so that these serve alone."""
    temperature: float = Field(default=0.05, gt=0)
    """What cosines are divided by in the loss: the lower, the more the nearest wrong passages matter."""
    max_length: int = Field(default=128, ge=4)
    """Longest text, in tokens."""
    on_overlong: Literal["error", "truncate", "drop"] = "truncate"
    """What happens to a row with a text longer than `max_length`; how many there are is said."""

    @field_validator("dimensions")
    @classmethod
    def _sizes(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if any(size < 1 for size in sizes):
            raise ValueError("a size is 1 or more")
        if len(set(sizes)) < len(sizes):
            raise ValueError("a size is named twice")
        return tuple(sorted(sizes, reverse=True))


class Reranking(TaskSpec):
    """A score for a query and a passage, read together: rows of `anchor`, `positive` and, if any, `negative`."""

    sampled: int = Field(default=1, ge=0)
    """Passages of other rows that stand as wrong ones beside each right one, besides the file's own negatives."""
    max_length: int = Field(default=256, ge=8)
    """Longest pair, in tokens; of a longer one the longer text is cut."""
    on_overlong: Literal["error", "truncate", "drop"] = "truncate"
    """What happens to a longer pair; how many there are is said."""
