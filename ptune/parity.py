"""Comparison of two computations of the same log-probabilities."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from ptune.formats.bundle import Hop

Array = NDArray[np.float32]


def log_softmax(logits: NDArray[np.floating]) -> Array:
    """Log-softmax over the last axis, computed in float64."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted.astype(np.float32)


def compare(
    name: str,
    reference: Iterable[Array],
    candidate: Iterable[Array],
    *,
    max_abs_logprob: float | None = None,
    mean_kl: float | None = None,
    top1: float | None = None,
    note: str = "",
) -> Hop:
    """One hop: log-probabilities [positions, vocab] of each prompt, compared. Holds one prompt in memory at a time.

    Limits: `max_abs_logprob`, `mean_kl` (nats, KL(reference || candidate)) and `top1` (the least share of positions whose
    most likely token agrees). A limit of None is not checked.
    """
    largest: list[float] = []
    kl, agree, positions = 0.0, 0, 0
    for expected, found in zip(reference, candidate, strict=True):
        delta = expected.astype(np.float64) - found
        largest.append(float(np.abs(delta).max()))
        kl += float((np.exp(expected.astype(np.float64)) * delta).sum())
        agree += int((expected.argmax(-1) == found.argmax(-1)).sum())
        positions += len(expected)
    worst, kl = float(np.max(largest)), max(kl / positions, 0.0)  # np.max keeps a NaN, Python's max may not
    finite = bool(np.isfinite(worst))
    limits, passed = [], finite
    if max_abs_logprob is not None:
        limits.append(f"max |Δ log p| ≤ {max_abs_logprob:g}")
        passed &= worst <= max_abs_logprob
    if mean_kl is not None:
        limits.append(f"mean KL ≤ {mean_kl:g}")
        passed &= kl <= mean_kl
    if top1 is not None:
        limits.append(f"top-1 ≥ {top1:g}")
        passed &= agree / positions >= top1
    return Hop(
        name=name,
        prompts=len(largest),
        positions=positions,
        max_abs_logprob=worst if finite else None,
        mean_kl=kl if finite else None,
        top1=agree / positions,
        limit=" and ".join(limits),
        passed=passed,
        note=note if finite else "some values are not finite",
    )


def liveness(
    name: str,
    reference: tuple[Sequence[Array], Sequence[Array]],
    candidate: tuple[Sequence[Array], Sequence[Array]],
    limit: float,
) -> Hop:
    """Compares the effect of the adapter on both sides. Each side is (base, adapter) log-probabilities.

    The figure is |Δ_here - Δ_there| / |Δ_there| in L2, with Δ = adapter - base. An adapter that changes nothing on the
    other side (a dead one) fails too: there is no effect to compare.
    """
    error, size, positions = 0.0, 0.0, 0
    for base_there, there, base_here, here in zip(*reference, *candidate, strict=True):
        expected = there.astype(np.float64) - base_there
        error += float(np.square(here.astype(np.float64) - base_here - expected).sum())
        size += float(np.square(expected).sum())
        positions += len(there)
    dead = size == 0
    ratio = float(np.sqrt(error / size)) if not dead else 0.0
    return Hop(
        name=name,
        prompts=len(reference[0]),
        positions=positions,
        liveness=ratio if np.isfinite(ratio) and not dead else None,
        limit=f"relative L2 of (adapter - base) ≤ {limit:g}",
        passed=not dead and ratio <= limit,
        note="the adapter changes nothing: it is dead" if dead else "",
    )
