"""Attention sinks of packed examples: a head's own score, beside those of the keys, whose share of the attention goes to nothing.

Kernels of attention know no sinks. But a key that scores the same with every query, and has a value of zeros, is one. So each
example gets a token before its first, and heads get some more numbers: the key of that token has a one there, other keys have
zeros, and queries have the sink. Its row of the output is dropped again.

Source: gpt-oss (https://arxiv.org/abs/2508.10925), section 2.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_MORE = 8  # numbers of a head: kernels of GPUs take widths that are multiples of it


@dataclass(frozen=True)
class Sinks:
    """Where the tokens of examples lie in a row that has a token more before each example."""

    lengths: list[int]  # of the examples, with that token
    tokens: Tensor  # [tokens] their places in the longer row
    first: Tensor  # [examples] the places of the tokens before them

    @classmethod
    def before(cls, lengths: Sequence[int], device: torch.device) -> Sinks:
        """lengths: of the examples in a row, in tokens."""
        first = [start + at for at, start in enumerate([0, *itertools.accumulate(lengths)][:-1])]
        tokens = [
            begin + 1 + at for begin, length in zip(first, lengths, strict=True) for at in range(length)
        ]
        places = (torch.tensor(each, device=device) for each in (tokens, first))
        return cls([length + 1 for length in lengths], *places)

    def states(
        self, query: Tensor, key: Tensor, value: Tensor, sink: Tensor, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """[1, heads, tokens, dim] of each -> [1, heads, tokens + examples, dim + some]. sink: [heads]. scale: of scores."""
        dim = query.shape[-1]
        scores = (sink / scale).to(query.dtype)[None, :, None, None].expand(*query.shape[:-1], 1)
        query, key, value = (
            self._longer(F.pad(torch.cat([states, *more], -1), (0, _MORE - len(more))))
            for states, more in ((query, [scores]), (key, []), (value, []))
        )
        ones = torch.zeros(key.shape[-1], dtype=key.dtype, device=key.device)
        ones[dim] = 1
        shape = (*key.shape[:2], len(self.first), -1)
        return query, key.index_copy(2, self.first, ones.expand(shape)), value

    def without(self, attended: Tensor, dim: int) -> Tensor:
        """[1, tokens + examples, heads, dim + some] -> [1, tokens, heads, dim]"""
        return attended.index_select(1, self.tokens)[..., :dim]

    def _longer(self, states: Tensor) -> Tensor:
        shape = (*states.shape[:2], sum(self.lengths), states.shape[-1])
        return states.new_zeros(shape).index_copy(2, self.tokens, states)
