"""Measures which floating-point type this device trains in fastest."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

GAIN = 1.25  # least speed-up for bfloat16, which keeps only 8 bits of each activation

_ROUNDS = 5
_TOKENS, _HIDDEN, _HEADS, _RANK = 512, 512, 8, 16


def fastest(device: torch.device) -> torch.dtype:
    """bfloat16 if a step in it is at least `GAIN` times as fast as in float32, else float32.

    Every GPU with bfloat16 gains more than that, so only CPUs are measured. An older GPU with matrix units for float16 takes
    that: NVIDIA's since compute capability 7.0.
    """
    if device.type == "cuda":
        found = usual(device)
        older = found == torch.float32 and torch.cuda.get_device_capability(device) >= (7, 0)
        return torch.float16 if older else found
    return torch.bfloat16 if bfloat16_gain(device) >= GAIN else torch.float32


def usual(device: torch.device) -> torch.dtype:
    """The default type of weights, without measuring: bfloat16 on a GPU that supports it, else float32."""
    capable = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if capable else torch.float32


def bfloat16_gain(device: torch.device) -> float:
    """Speed of a small block's forward and backward pass in bfloat16, relative to float32.

    Takes half a second, once per process. CPUs differ by more than tenfold: those with matrix units (AMX) gain, many
    others lose. Measures the CPU time of this process, best of several rounds, so that other processes do not matter.
    """
    return _measured(device)


@functools.cache
@torch.enable_grad()
def _measured(device: torch.device) -> float:
    sides = [_block(device, dtype) for dtype in (torch.float32, torch.bfloat16)]
    for run in sides:
        _seconds(run)  # the first call picks kernels
    rounds = [(_seconds(sides[0]), _seconds(sides[1])) for _ in range(_ROUNDS)]
    return min(wide for wide, _ in rounds) / min(narrow for _, narrow in rounds)


def _block(device: torch.device, dtype: torch.dtype) -> Callable[[], None]:
    """A typical block of a training step: norm, attention and a gated MLP, frozen in `dtype`, with LoRA in float32."""
    make = functools.partial(torch.full, fill_value=0.01, device=device)
    x = make((1, _TOKENS, _HIDDEN), dtype=dtype).requires_grad_()
    square, widen, narrow = (
        _Adapted(make((outputs, inputs), dtype=dtype), make((_RANK, inputs)), make((outputs, _RANK)))
        for outputs, inputs in ((_HIDDEN, _HIDDEN), (4 * _HIDDEN, _HIDDEN), (_HIDDEN, 4 * _HIDDEN))
    )

    def run() -> None:
        normal = _normalised(x)
        query, key, value = (square(normal).view(1, _TOKENS, _HEADS, -1).transpose(1, 2) for _ in range(3))
        heads = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        hidden = x + square(heads.transpose(1, 2).reshape(1, _TOKENS, _HIDDEN))
        normal = _normalised(hidden)
        (hidden + narrow(F.silu(widen(normal)) * widen(normal))).sum().backward()

    return run


def _normalised(x: torch.Tensor) -> torch.Tensor:
    """RMS norm in float32, as in transformers."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


@dataclass(frozen=True)
class _Adapted:
    """A linear layer with LoRA, computed as in peft."""

    weight: torch.Tensor  # [out, in]
    down: torch.Tensor  # [rank, in], float32
    up: torch.Tensor  # [out, rank], float32

    def __post_init__(self) -> None:
        self.down.requires_grad_()
        self.up.requires_grad_()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        update = F.linear(F.linear(x.float(), self.down), self.up) * 2.0
        return (F.linear(x, self.weight) + update).to(x.dtype)


def _seconds(run: Callable[[], None]) -> float:
    started_s = time.process_time()
    run()
    return time.process_time() - started_s
