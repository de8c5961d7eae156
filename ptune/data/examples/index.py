"""Finds the examples that a text begins with, but for what follows their last target: a template's line break, say."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from ptune.codecs.chat import Example

_PRIME, _BASE = 2**61 - 1, 1_000_003


class ExampleIndex:
    """Examples by a hash of their tokens after the first, which rolls over a text: one pass finds those of any length."""

    def __init__(self, examples: Iterable[Example]) -> None:
        self._by_hash: dict[int, list[Example]] = defaultdict(list)
        for example in examples:
            self._by_hash[_rolled(_learned(example))[-1]].append(example)

    def beginnings(self, ids: Sequence[int]) -> list[Example]:
        """The examples whose tokens to the last target are the first ones of `ids`, shortest first. A first token below 0 stands
        for any."""
        found = []
        for end, value in enumerate(_rolled(ids), 1):
            for example in self._by_hash.get(value, ()):
                own = _learned(example)
                if own[1:] == tuple(ids[1:end]) and ids[0] in (own[0], min(ids[0], -1)):
                    found.append(example)
        return found


def _learned(example: Example) -> tuple[int, ...]:
    """The tokens to the last target; all where there is none."""
    after = example.targets[::-1].index(True) if True in example.targets else 0
    return example.ids[: len(example) - after]


def _rolled(ids: Sequence[int]) -> list[int]:
    """The hash of each beginning, of 1 token, of 2 …"""
    value, found = 0, [0]
    for token in ids[1:]:
        value = (value * _BASE + token + 2) % _PRIME
        found.append(value)
    return found
