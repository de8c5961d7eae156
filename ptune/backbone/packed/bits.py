"""Integers of a few bits, packed without gaps into words of 32, the lowest bits first."""

from __future__ import annotations

import torch
from torch import Tensor

_WORD = 32


def unpacked(words: Tensor, bits: int, count: int) -> Tensor:
    """The first `count` integers of `bits` bits (1 to 8) in int32 words [..., words]: uint8 [..., count].

    Where the bits do not divide a word, an integer may begin in one word and end in the next, as in GPTQ's 3 bits.
    """
    if bits in (1, 2, 4, 8):
        return _of_bytes(words, bits)[..., :count]
    first = torch.arange(count, device=words.device) * bits  # each integer's lowest bit
    # An integer that ends in its own word is masked, so any word may stand for the next one there.
    here = first // _WORD
    after = (here + 1).clamp(max=words.shape[-1] - 1)
    wide = words.to(torch.int64) & (2**_WORD - 1)
    pairs = wide[..., here] | (wide[..., after] << _WORD)
    return ((pairs >> (first % _WORD)) & (2**bits - 1)).to(torch.uint8)


def _of_bytes(words: Tensor, bits: int) -> Tensor:
    """All integers of words, whose bytes each hold whole ones."""
    octets = words.contiguous().view(
        torch.uint8
    )  # the lowest first, as on every machine that PyTorch runs on
    if bits == 8:
        return octets
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=words.device)
    return ((octets[..., None] >> shifts) & (2**bits - 1)).flatten(-2)
