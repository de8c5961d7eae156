"""Labels and the meaning of a head's outputs. Torch-free: shared by training, evaluation and serving."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Problem: TypeAlias = Literal["single", "multi", "regression", "tags", "vector"]
"""One label; any number of labels; numbers instead of labels; one label per word (BIO tags); a vector, without labels."""
NUMBERS: tuple[Problem, ...] = ("regression", "vector")
"""Problems whose outputs are plain numbers, not logits of probabilities."""

Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Labels:
    """The names of a head's outputs, in order, and how to interpret them."""

    names: tuple[str, ...]
    problem: Problem

    def __len__(self) -> int:
        return len(self.names)

    def scores(self, logits: NDArray[Any]) -> Scores:
        """Logits [..., labels] -> probabilities: softmax, or sigmoid for several labels; plain numbers are unchanged."""
        values = logits.astype(np.float64)
        if self.problem in NUMBERS:
            return values.astype(np.float32)
        if self.problem == "multi":
            return (1.0 / (1.0 + np.exp(-values))).astype(np.float32)
        values -= values.max(axis=-1, keepdims=True)
        exponentials = np.exp(values)
        return (exponentials / exponentials.sum(axis=-1, keepdims=True)).astype(np.float32)
