"""Products with frozen or small weights in float32 on a CPU, by the faster one of the two libraries that PyTorch brings.

PyTorch gives products of float32 to MKL, which uses AVX2 alone on AMD's processors, and those of 16 bits to oneDNN, which uses
AVX-512 on all that have it. So on AMD's processors with AVX-512 oneDNN computes float32, too: Zen 5 takes half the time. The sums
are float32 in both, in another order. Which one it is depends on nothing but the processor, so that a run resumes to the bit.
"""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

CPU_INFO = Path("/proc/cpuinfo")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [rows, in], weight [out, in] -> x W^T + b [rows, out]. It has no gradient where oneDNN computes it."""
    return _one_dnn(x, weight, bias) if _suits(x, weight) else F.linear(x, weight, bias)


def times(x: Tensor, weight: Tensor) -> Tensor:
    """x [rows, out], weight [out, in] -> x W [rows, in]. It has no gradient where oneDNN computes it."""
    return _one_dnn(x, weight.t(), None) if _suits(x, weight) else x @ weight


@functools.cache
def by_one_dnn() -> bool:
    """Whether oneDNN computes products of float32 here: it is the faster one, and is there.

    It is tried in a thread of its own, where none of PyTorch's modes is on: the first to ask may be a plan, whose tensors hold no
    numbers.
    """
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or not torch.backends.mkldnn.is_available():
        return False
    try:
        if "AuthenticAMD" not in CPU_INFO.read_text(encoding="utf-8"):
            return False
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(_agrees).result()
    except (OSError, RuntimeError, AttributeError):  # PyTorch does not show the operator as its own
        return False


def _suits(x: Tensor, weight: Tensor) -> bool:
    wide = x.dtype == weight.dtype == torch.float32
    return wide and x.device.type == weight.device.type == "cpu" and len(x) > 0 and by_one_dnn()


def _one_dnn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    with torch.no_grad():
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product


def _agrees() -> bool:
    """Whether the operator computes a product, and is only rounding away from a sum in float64."""
    numbers = torch.arange(35 * 7, dtype=torch.float32).view(35, 7).sin()
    x, weight, bias = numbers[:5], numbers[5:], numbers[:30, 0].contiguous()
    exact = x.double() @ weight.double().t() + bias.double()
    return bool((_one_dnn(x, weight, bias) - exact).abs().max() < 1e-5)
