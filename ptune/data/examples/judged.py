"""The examples of judged answers, each with the answer of another prompt."""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import overload

import numpy as np
from numpy.typing import NDArray

from ptune.codecs.chat import Example
from ptune.data.examples.dataset import Dataset
from ptune.data.examples.store import Examples

_LOOKED_AT = 100  # answers, for one to another prompt


@dataclass(frozen=True, slots=True)
class JudgedExample:
    """The example of an answer, and that of another prompt's answer after the same prompt."""

    own: Example
    mismatched: Example
    desirable: bool
    split: str
    number: int  # in its split

    def __len__(self) -> int:
        return len(self.own)


@dataclass(frozen=True)
class JudgedExamples(Sequence[JudgedExample]):
    """The judged answers of a split. desirable: [examples]; limit: longest example in tokens.

    Mismatched answers are drawn once: they are the answers of the split in an order of chance, each the next one's.
    """

    examples: Examples
    desirable: NDArray[np.bool_]
    split: str
    limit: int
    seed: int

    def __len__(self) -> int:
        return len(self.examples)

    @overload
    def __getitem__(self, index: int) -> JudgedExample: ...
    @overload
    def __getitem__(self, index: slice) -> list[JudgedExample]: ...
    def __getitem__(self, index: int | slice) -> JudgedExample | list[JudgedExample]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        own = self.examples[number]
        return JudgedExample(
            own, self._mismatched(number, own), bool(self.desirable[number]), self.split, number
        )

    def _mismatched(self, number: int, own: Example) -> Example:
        """The prompt of `own` before the next answer in the order that belongs to another prompt, cut to the limit."""
        order, places = self._order
        prompt, other = own.ids[: _asked(own)], own
        for step in range(1, min(len(order), _LOOKED_AT)):
            found = self.examples[order[(places[number] + step) % len(order)]]
            other = found if step == 1 else other  # where all prompts are the same
            if found.ids[: _asked(found)] != prompt:
                other = found
                break
        start = _asked(other)
        ids, targets = prompt + other.ids[start:], (False,) * len(prompt) + other.targets[start:]
        return Example(ids[: self.limit], targets[: self.limit])

    @cached_property
    def _order(self) -> tuple[array[int], array[int]]:
        """The examples in an order of chance, and the place of each in it."""
        order = array("q", range(len(self)))
        random.Random(f"{self.seed}/{self.split}").shuffle(order)  # noqa: S311 - the same on every machine
        places = array("q", order)
        for place, number in enumerate(order):
            places[number] = place
        return order, places


def judged_examples(made: Dataset, split: str, seed: int) -> JudgedExamples:
    """The judged answers of a split of a data set."""
    examples: Examples = getattr(made, split)
    return JudgedExamples(examples, made.labels[split], split, made.summary["longest_tokens"], seed)


def _asked(example: Example) -> int:
    """Number of tokens before the answer."""
    return example.targets.index(True)
