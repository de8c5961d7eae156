"""Which examples a step sees, as a pure function of seed and step, so that there is no sampler to save."""

from __future__ import annotations

import functools
import math
import random
from array import array
from dataclasses import dataclass
from fractions import Fraction

from ptune.config.recipe import Train


@dataclass(frozen=True)
class Mixture:
    """Training examples in parts, one after the other, and how much of what training sees is to come from each.

    weights: of the parts, normalised here. A part of which more is asked than it has is repeated; of another, less
    than an epoch is seen.
    """

    sizes: tuple[int, ...]
    weights: tuple[float, ...]

    def turns(self, place: int) -> list[int]:
        """How many of the first `place` examples come from each part: its share of them, to within a few.

        Part by part, the rounded share of what is left for it and the parts after it. So each count grows by one or
        stays as `place` grows by one, and no step depends on those before it.
        """
        counts = []
        for weight, rest in self._whole:
            taken = (2 * weight * place + rest) // (2 * rest) if rest else 0
            counts.append(taken)
            place -= taken
        return counts

    @functools.cached_property
    def _whole(self) -> list[tuple[int, int]]:
        """The weight of each part and the sum from it on, as integers: nothing is ever rounded away."""
        exact = [Fraction(weight) for weight in self.weights]
        unit = math.lcm(*(weight.denominator for weight in exact))
        whole = [int(weight * unit) for weight in exact]
        return [(weight, sum(whole[part:])) for part, weight in enumerate(whole)]


class Order:
    """Permutations of the examples, one an epoch and one after the other, cut into steps of `batch_size`.

    Every step is whole: the last one of an epoch goes on into the next permutation. In a mixture every part goes
    through permutations of its own, and an epoch is as many examples as there are in all.
    """

    def __init__(self, examples: int, batch_size: int, seed: int, mixture: Mixture | None = None) -> None:
        self.examples, self.batch_size, self.seed, self.mixture = examples, batch_size, seed, mixture
        parts = 1 if mixture is None else len(mixture.sizes)
        self._permutation = functools.lru_cache(maxsize=2 * parts)(_permutation)

    def batch(self, step: int) -> list[int]:
        """Indices of the examples of `step` (from 0), the same in every process."""
        first = step * self.batch_size
        if self.mixture is not None:
            return [self._mixed(self.mixture, place) for place in range(first, first + self.batch_size)]
        places = (divmod(place, self.examples) for place in range(first, first + self.batch_size))
        return [self._permutation(self.examples, f"{self.seed}/{epoch}")[index] for epoch, index in places]

    def _mixed(self, mixture: Mixture, place: int) -> int:
        """The example at a place of the endless sequence."""
        before, after = mixture.turns(place), mixture.turns(place + 1)
        part = next(part for part, turns in enumerate(before) if turns < after[part])
        epoch, index = divmod(before[part], mixture.sizes[part])
        permutation = self._permutation(mixture.sizes[part], f"{self.seed}/{part}/{epoch}")
        return sum(mixture.sizes[:part]) + permutation[index]

    def steps(self, train: Train) -> int:
        """Optimiser steps of the whole training."""
        return train.max_steps or math.ceil(train.epochs * self.examples / self.batch_size)


def step_seed(seed: int, step: int, process: int) -> int:
    """Seeds the dropout of one step in one process."""
    return random.Random(f"{seed}/{step}/{process}").getrandbits(63)  # noqa: S311


def _permutation(examples: int, seed: str) -> array[int]:
    indices = array("q", range(examples))
    random.Random(seed).shuffle(indices)  # noqa: S311
    return indices
