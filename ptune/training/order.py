"""The examples of each step, as a pure function of seed and step, so that there is no sampler state to save."""

from __future__ import annotations

import functools
import math
import random
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from ptune.config.recipe import Train


@dataclass(frozen=True)
class Mixture:
    """Consecutive parts of the training examples, and the share of training that each part gets.

    weights: one per part, normalised here. A part whose share exceeds its size is repeated; of the others, training sees
    less than an epoch.
    """

    sizes: tuple[int, ...]
    weights: tuple[float, ...]

    def turns(self, place: int) -> list[int]:
        """How many of the first `place` examples come from each part: its share, to within a few.

        Each part gets its rounded share of what is left for it and the parts after it. So when `place` grows by one, each
        count stays or grows by one, and no step depends on the steps before it.
        """
        counts = []
        for weight, rest in self._whole:
            taken = (2 * weight * place + rest) // (2 * rest) if rest else 0
            counts.append(taken)
            place -= taken
        return counts

    @functools.cached_property
    def _whole(self) -> list[tuple[int, int]]:
        """The weight of each part and the sum of the weights from it on, as integers, so that nothing is rounded."""
        exact = [Fraction(weight) for weight in self.weights]
        unit = math.lcm(*(weight.denominator for weight in exact))
        whole = [int(weight * unit) for weight in exact]
        return [(weight, sum(whole[part:])) for part, weight in enumerate(whole)]


def mixture_of(sizes: Sequence[int], weights: Sequence[float] | None) -> Mixture | None:
    """The mixture that `data.weights` asks for; None where it asks for none."""
    return Mixture(tuple(sizes), tuple(weights)) if weights else None


class Order:
    """Permutations of the examples, one per epoch, joined and cut into steps of `batch_size`.

    Every step is full: the last one of an epoch continues into the next permutation. In a mixture each part has its own
    permutations, and an epoch is as many examples as there are in all.

    lengths: of the examples, for a curriculum (Bengio et al. 2009, https://doi.org/10.1145/1553374.1553380): the first
    permutation, of each part in a mixture, goes from the shortest to the longest, those of a length shuffled. The later ones
    are shuffled as ever.

    each: how many steps learn from the same examples, one after the other.
    """

    def __init__(
        self,
        examples: int,
        batch_size: int,
        seed: int,
        mixture: Mixture | None = None,
        lengths: Sequence[int] | None = None,
        each: int = 1,
    ) -> None:
        self.examples, self.batch_size, self.seed, self.mixture = examples, batch_size, seed, mixture
        self._lengths, self.each = lengths, each
        parts = 1 if mixture is None else len(mixture.sizes)
        self._permutation = functools.lru_cache(maxsize=2 * parts)(self._permuted)

    def batch(self, step: int) -> list[int]:
        """Indices of the examples of `step` (from 0), the same in every process."""
        first = step // self.each * self.batch_size
        if self.mixture is not None:
            return [self._mixed(self.mixture, place) for place in range(first, first + self.batch_size)]
        places = (divmod(place, self.examples) for place in range(first, first + self.batch_size))
        return [self._permutation(None, epoch)[index] for epoch, index in places]

    def in_order(self, step: int) -> bool:
        """Whether examples of `step` come from a pass that goes from the shortest to the longest."""
        if self._lengths is None:
            return False
        first = step // self.each * self.batch_size
        if self.mixture is None:
            return first < self.examples
        before, after = self.mixture.turns(first), self.mixture.turns(first + self.batch_size)
        drawn = zip(before, after, self.mixture.sizes, strict=True)
        return any(start < end and start < size for start, end, size in drawn)

    def _mixed(self, mixture: Mixture, place: int) -> int:
        """Index of the example at `place` in the endless sequence."""
        before, after = mixture.turns(place), mixture.turns(place + 1)
        part = next(part for part, turns in enumerate(before) if turns < after[part])
        epoch, index = divmod(before[part], mixture.sizes[part])
        return sum(mixture.sizes[:part]) + self._permutation(part, epoch)[index]

    def _permuted(self, part: int | None, epoch: int) -> array[int]:
        """The order of a part's examples in one of its epochs, counted from its first; None: of all, which are no mixture."""
        if self.mixture is None or part is None:
            first, permutation = 0, _permutation(self.examples, f"{self.seed}/{epoch}")
        else:
            sizes = self.mixture.sizes
            first = sum(sizes[:part])
            permutation = _permutation(sizes[part], f"{self.seed}/{part}/{epoch}")
        if self._lengths is None or epoch:
            return permutation
        lengths = self._lengths
        return array("q", sorted(permutation, key=lambda index: lengths[first + index]))

    def steps(self, train: Train) -> int:
        """Number of optimiser steps in the training."""
        return train.max_steps or max(self._by_epochs(train), train.min_steps or 1)

    def validate_every(self, train: Train) -> int:
        """Steps between validations: a quarter of the passes over the examples, but a twentieth of `min_steps` at least."""
        quarter = max(1, self.examples // self.batch_size // 4)
        return train.validate_every or max(quarter * self.each, (train.min_steps or 0) // 20)

    def told(self, train: Train) -> str:
        """A line for the user: how many steps, how many passes over the examples that is, and what may end it earlier."""
        steps = self.steps(train)
        passes = steps * self.batch_size / self.examples / self.each
        few = train.max_steps is None and steps > self._by_epochs(train)
        least = f" (train.min_steps {steps}: there are few rows)" if few else ""
        early = (
            ""
            if train.patience is None
            else f", or until {train.patience} validations in a row are no better"
        )
        begun = "" if self._lengths is None else ", from the shortest to the longest in the first"
        each = "" if self.each == 1 else f", {self.each} on the same"
        return f"{steps} steps of {self.batch_size} examples{each}, {passes:.3g} passes over {self.examples}{begun}{least}{early}"

    def _by_epochs(self, train: Train) -> int:
        epochs = Fraction(repr(train.epochs))  # as written: 1.1 * 100 is more than 110 in floats
        return self.each * math.ceil(epochs * self.examples / self.batch_size)


def step_seed(seed: int, step: int, process: int) -> int:
    """The seed of the dropout of one step in one process."""
    return random.Random(f"{seed}/{step}/{process}").getrandbits(63)  # noqa: S311


def _permutation(examples: int, seed: str) -> array[int]:
    indices = array("q", range(examples))
    random.Random(seed).shuffle(indices)  # noqa: S311
    return indices
