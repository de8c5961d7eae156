"""What a GPU must be told before a run, so that its bytes can be repeated and its memory does not fall to pieces."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator

import torch

_WORKSPACE = (
    ":4096:8"  # cuBLAS repeats its sums only in a workspace of a fixed size (NVIDIA's documentation, 2.1.4)
)


@contextlib.contextmanager
def repeatable(device: torch.device) -> Iterator[list[str]]:
    """Within the block, a GPU gives the same bits in every run of the same program; other devices do by themselves.

    Products of float32 stay in float32 (no TF32), as on a CPU. Yields the operations that have no repeatable form on this
    device, which is filled as they are met; a run without them resumes to the same bytes.
    """
    unrepeatable: list[str] = []
    if device.type != "cuda":
        yield unrepeatable
        return
    # Both are read when the first kernel runs. The user's own settings count.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", _WORKSPACE)
    os.environ.setdefault(
        "PYTORCH_ALLOC_CONF", "expandable_segments:True"
    )  # rows of other lengths in each step
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
        torch.get_float32_matmul_precision(),
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    torch.set_float32_matmul_precision("highest")
    try:
        with _heard(unrepeatable):
            yield unrepeatable
    finally:
        deterministic, warn_only, benchmark, precision = before
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.backends.cudnn.benchmark = benchmark
        torch.set_float32_matmul_precision(precision)


@contextlib.contextmanager
def _heard(unrepeatable: list[str]) -> Iterator[None]:
    """Collects the names in torch's warnings of operations without a repeatable form, and shows all other warnings."""
    with warnings.catch_warnings():
        warnings.filterwarnings("always", message=".*does not have a deterministic implementation")
        show = warnings.showwarning

        def hear(message: Warning | str, *others: object, **named: object) -> None:
            name, found, _ = str(message).partition(" does not have a deterministic implementation")
            if not found:
                show(message, *others, **named)  # type: ignore[arg-type]
            elif name not in unrepeatable:
                unrepeatable.append(name)

        warnings.showwarning = hear
        yield
