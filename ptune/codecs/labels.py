"""Labels and what a head's outputs mean. Torch-free: training, evaluation and serving share it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Problem: TypeAlias = Literal["single", "multi", "regression", "tags", "vector"]
"""One label; any number of them; numbers instead of labels; one label for each word (BIO tags); a vector, without labels."""
NUMBERS: tuple[Problem, ...] = ("regression", "vector")
"""Outputs that are what they are: no logarithms of probabilities."""

Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Labels:
    """The names of a head's outputs, in their order, and how the outputs are to be read."""

    names: tuple[str, ...]
    problem: Problem

    def __len__(self) -> int:
        return len(self.names)

    def scores(self, logits: NDArray[Any]) -> Scores:
        """[..., labels] logits -> probabilities: softmax, sigmoid where any number of labels may fit; or the numbers."""
        values = logits.astype(np.float64)
        if self.problem in NUMBERS:
            return values.astype(np.float32)
        if self.problem == "multi":
            return (1.0 / (1.0 + np.exp(-values))).astype(np.float32)
        values -= values.max(axis=-1, keepdims=True)
        exponentials = np.exp(values)
        return (exponentials / exponentials.sum(axis=-1, keepdims=True)).astype(np.float32)
