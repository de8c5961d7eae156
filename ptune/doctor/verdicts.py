"""Statistics of judged answers in a split: about 10 bytes each, without texts."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass
class Verdicts:
    """The verdict on each answer, in the order of its split."""

    desirable_lengths: Counter[int] = field(default_factory=Counter)  # tokens -> answers
    undesirable_lengths: Counter[int] = field(default_factory=Counter)
    _hashes: array[int] = field(default_factory=lambda: array("Q"))  # of prompt and answer
    _labels: array[int] = field(default_factory=lambda: array("B"))

    def add(self, text: int, tokens: int, desirable: bool) -> None:
        """Counts an answer. text: the hash of prompt and answer; tokens: of the answer."""
        (self.desirable_lengths if desirable else self.undesirable_lengths)[tokens] += 1
        self._hashes.append(text)
        self._labels.append(desirable)

    @property
    def desirable(self) -> int:
        """Number of desirable answers."""
        return self.desirable_lengths.total()

    @property
    def undesirable(self) -> int:
        """Number of undesirable answers."""
        return self.undesirable_lengths.total()

    def contradictions(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Indices of answers that an earlier one equals but for its verdict, and of the first equal one of each."""
        texts, labels = np.frombuffer(self._hashes, np.uint64), np.frombuffer(self._labels, np.uint8)
        order = np.argsort(texts, kind="stable")
        first = order[np.searchsorted(texts[order], texts)]
        against = np.flatnonzero(labels != labels[first])
        return against, first[against]

    def longer(self) -> float:
        """Share of all desirable answers, each beside every undesirable one, that are the longer one; ties count half."""
        wins = sum(
            count * other * ((length > shorter) + (length == shorter) / 2)
            for length, count in self.desirable_lengths.items()
            for shorter, other in self.undesirable_lengths.items()
        )
        return wins / (self.desirable * self.undesirable)
