"""One layer of 8B on this device against the CPU: packed bytes, dequantised weights, and products with an adapter."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

ROWS, RANK = 2048, 16


def run(work: Path, *, tiny: bool) -> dict[str, Any]:
    import torch

    from benchmarks.gpu.model import random
    from ptune.backbone.quantize import Int8Linear, Nf4Linear

    del work
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    inside, outside, rows = (128, 256, 32) if tiny else (4096, 14336, ROWS)
    weight, found = random(outside, inside), {}
    for name, kind in (("nf4", Nf4Linear), ("int8", Int8Linear)):
        plain = torch.nn.Linear(inside, outside, bias=False, device="meta", dtype=torch.bfloat16)
        plain.weight = torch.nn.Parameter(weight, requires_grad=False)
        here = kind(plain)
        exact = here.dequantised()
        there = here.to(device)
        found[name] = {
            "dequantised_is_the_same": torch.equal(there.dequantised().cpu(), exact),
            **_product(there, exact, rows, device),
        }
    if device.type == "cuda":
        from bitsandbytes.nn import Params4bit

        packed = [
            Params4bit(weight, quant_type="nf4", compress_statistics=True).to(at) for at in ("cpu", device)
        ]
        found["nf4"]["packed_on_it_is_the_same"] = torch.equal(packed[0].data, packed[1].data.cpu())
    return found


def _product(layer: Any, exact: Any, rows: int, device: Any) -> dict[str, float]:
    """Relative errors of a bfloat16 product with its adapter and of its gradients against float64, and its milliseconds."""
    import torch

    from ptune.training.layers.lora_product import LoraProduct

    inside, outside = layer.in_features, layer.out_features
    x = torch.randn(rows, inside).bfloat16()
    a, b = torch.randn(RANK, inside) * inside**-0.5, torch.randn(outside, RANK) * 0.1
    upstream = torch.randn(rows, outside).bfloat16()
    some = slice(0, 64)  # rows of the comparison: float64 takes long
    deep = [one.double().requires_grad_() for one in (x[some], a, b)]
    wanted = deep[0] @ exact.double().T + 2.0 * (deep[0] @ deep[1].T) @ deep[2].T
    of_deep = torch.autograd.grad(wanted, deep, upstream[some].double())
    own = [x[some].to(device), a.to(device), b.to(device)]
    for one in own:
        one.requires_grad_()
    out = LoraProduct.apply(*own, 2.0, layer)
    of_own = torch.autograd.grad(out, own, upstream[some].to(device))
    errors = {
        name: float((one.double().cpu() - true).norm() / true.norm())
        for name, one, true in zip(
            ("out", "of_x", "of_a", "of_b"), (out, *of_own), (wanted, *of_deep), strict=True
        )
    }
    whole = [x.to(device).requires_grad_(), a.to(device).requires_grad_(), b.to(device).requires_grad_()]

    def once() -> None:
        torch.autograd.grad(LoraProduct.apply(*whole, 2.0, layer), whole, upstream.to(device))

    return {**errors, "forward_and_backward_ms": _milliseconds(once, device)}


def _milliseconds(work: Any, device: Any) -> float:
    """The least of five."""
    import torch

    times = []
    for _ in range(6):
        begun = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - begun))
    return min(times[1:])
