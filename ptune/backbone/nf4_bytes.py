"""A weight as bytes in 4-bit NormalFloat, in blocks of 64 whose scales are quantised too.

Source: QLoRA (Dettmers et al. 2023, https://arxiv.org/abs/2305.14314).
"""

from __future__ import annotations

import torch
from bitsandbytes.functional import QuantState, quantize_4bit, quantize_blockwise

BLOCK, NESTED_BLOCK = 64, 256  # weights per scale, and scales per nested scale


def nf4_bytes(weight: torch.Tensor) -> tuple[torch.Tensor, QuantState]:
    """Two weights in each byte [n, 1], and their scales; the same bytes with any number of threads."""
    packed, plain = quantize_4bit(weight.contiguous(), blocksize=BLOCK, quant_type="nf4")
    offset = _mean(plain.absmax)
    scales, nested = quantize_blockwise(plain.absmax - offset, blocksize=NESTED_BLOCK)
    state = QuantState(
        scales, plain.shape, plain.code, BLOCK, "nf4", plain.dtype, offset=offset, state2=nested
    )
    return packed, state


def _mean(scales: torch.Tensor) -> torch.Tensor:
    """Their mean, summed by one thread: several sum in another order, to other bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return scales.mean()
    finally:
        torch.set_num_threads(threads)
