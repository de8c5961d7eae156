"""Blocks of a text: pieces of so many tokens, each named by a hash of all tokens up to its end, of the model and of whoever pays.

Two texts that begin alike share the names of their first blocks (as in vLLM and LMCache). A name says under what the keys and
values were computed, and nothing of where: neither slots nor budget nor context are part of it, or a server with another
`--kv-gb` would find nothing again.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

BLOCK_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Owner:
    """Under what a text is computed."""

    tenant: str
    adapter: bytes = b""  # its digest; empty: the bare base
    acts_from: int = sys.maxsize  # the first token that is computed with the adapter


@dataclass(frozen=True, slots=True)
class Block:
    """Tokens [start, stop) of a text."""

    number: int
    key: str  # hex; the name of its file
    tokens: bytes  # int64, little-endian

    @property
    def start(self) -> int:
        return self.number * BLOCK_TOKENS

    @property
    def stop(self) -> int:
        return self.start + BLOCK_TOKENS


def blocks_of(tokens: Sequence[int], owner: Owner, identity: bytes) -> Iterator[Block]:
    """The whole blocks of a text, from its first on. identity: a hash of the model and of what computes it."""
    key = hashlib.sha256(identity + hashlib.sha256(owner.tenant.encode()).digest()).digest()
    for number in range(len(tokens) // BLOCK_TOKENS):
        start, stop = number * BLOCK_TOKENS, (number + 1) * BLOCK_TOKENS
        piece = np.array(tokens[start:stop], "<i8").tobytes()
        # Up to where an adapter begins to act all adapters and the base share what is computed.
        acts = b"" if owner.acts_from >= stop else owner.adapter + b"%d" % max(0, owner.acts_from - start)
        key = hashlib.sha256(key + piece + acts).digest()
        yield Block(number, key.hex(), piece)
