"""Which examples a step sees, as a pure function of seed and step, so that there is no sampler to save."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Sequence
from typing import TypeVar

from ptune.recipe import Train

T = TypeVar("T")


class Order:
    """Permutations of the examples, one an epoch and one after the other, cut into steps of `batch_size`.

    Every step is whole: the last one of an epoch goes on into the next permutation.
    """

    def __init__(self, examples: int, batch_size: int, seed: int) -> None:
        self.examples, self.batch_size, self.seed = examples, batch_size, seed

    def batch(self, step: int) -> list[int]:
        """Indices of the examples of `step` (from 0), the same in every process."""
        first = step * self.batch_size
        places = (divmod(place, self.examples) for place in range(first, first + self.batch_size))
        return [_permutation(self.examples, self.seed, epoch)[index] for epoch, index in places]

    def steps(self, train: Train) -> int:
        """Optimiser steps of the whole training."""
        return train.max_steps or math.ceil(train.epochs * self.examples / self.batch_size)


def shard(items: Sequence[T], process: int, processes: int) -> list[T]:
    """Every process's share of a batch."""
    return list(items[process::processes])


def step_seed(seed: int, step: int, process: int) -> int:
    """Seeds the dropout of one step in one process."""
    return random.Random(f"{seed}/{step}/{process}").getrandbits(63)  # noqa: S311


@functools.lru_cache(maxsize=2)
def _permutation(examples: int, seed: int, epoch: int) -> list[int]:
    indices = list(range(examples))
    random.Random(f"{seed}/{epoch}").shuffle(indices)  # noqa: S311
    return indices
