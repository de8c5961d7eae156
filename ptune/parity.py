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
    comparison = Comparison()
    for expected, found in zip(reference, candidate, strict=True):
        comparison.add(expected, found)
    return comparison.hop(name, max_abs_logprob=max_abs_logprob, mean_kl=mean_kl, top1=top1, note=note)


class Comparison:
    """Figures of log-probabilities [positions, vocab] that are compared prompt by prompt."""

    def __init__(self) -> None:
        self._largest: list[float] = []
        self._kl, self._agree, self._positions = 0.0, 0, 0

    def add(self, expected: Array, found: Array) -> None:
        """Compares one prompt."""
        delta = expected.astype(np.float64) - found
        self._largest.append(float(np.abs(delta).max()))
        self._kl += float((np.exp(expected.astype(np.float64)) * delta).sum())
        self._agree += int((expected.argmax(-1) == found.argmax(-1)).sum())
        self._positions += len(expected)

    def hop(
        self,
        name: str,
        *,
        max_abs_logprob: float | None = None,
        mean_kl: float | None = None,
        top1: float | None = None,
        note: str = "",
    ) -> Hop:
        """The hop of all prompts so far. Limits: as `compare` has them."""
        worst = float(np.max(self._largest))  # np.max keeps a NaN, Python's max may not
        kl, same = max(self._kl / self._positions, 0.0), self._agree / self._positions
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
            passed &= same >= top1
        return Hop(
            name=name,
            prompts=len(self._largest),
            positions=self._positions,
            max_abs_logprob=worst if finite else None,
            mean_kl=kl if finite else None,
            top1=same,
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
