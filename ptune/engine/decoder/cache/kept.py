"""Tokens that were computed and are kept, and how many of them are the same in another sequence."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from ptune.engine.adapters.lora import Adapter
    from ptune.engine.decoder.cache.kv_blocks import Owner
    from ptune.engine.decoder.sequence import TokenSequence


@dataclass(frozen=True)
class Kept:
    """The first tokens of a sequence, as they were computed."""

    tokens: list[int]
    adapter: weakref.ref[Adapter] | None  # weak: kept tokens keep no adapter in memory; None = the bare base
    acts_from: int  # as of the sequence
    whole: bool = True  # whether the states of layers that keep some are those after the last of these tokens
    owner: Owner | None = None  # where idle conversations are kept on disk: under what they were computed

    @classmethod
    def of(cls, sequence: TokenSequence, owner: Owner | None = None) -> Self:
        """What a sequence has computed."""
        adapter = None if sequence.adapter is None else weakref.ref(sequence.adapter)
        return cls(sequence.tokens[: sequence.cached], adapter, sequence.acts_from, owner=owner)

    def shared_with(self, sequence: TokenSequence) -> int:
        """Most tokens that have the same keys and values in a sequence that begins with the same ones."""
        adapter = None if self.adapter is None else self.adapter()
        if self.adapter is not None and adapter is None:
            return min(self.acts_from, sequence.acts_from)  # its adapter is gone
        return alike(adapter, self.acts_from, sequence)


def alike(adapter: Adapter | None, acts_from: int, sequence: TokenSequence) -> int:
    """How many first tokens, if they are the same, have the same keys and values under an adapter as in a sequence."""
    if adapter is sequence.adapter and acts_from == sequence.acts_from:
        return sys.maxsize
    return min(acts_from, sequence.acts_from)


def common(one: Sequence[int], other: Sequence[int], most: int) -> int:
    """Length of the shared prefix of two token lists, at most `most`."""
    most = min(most, len(one), len(other))
    if one[:most] == other[:most]:
        return most
    return next(index for index in range(most) if one[index] != other[index])
