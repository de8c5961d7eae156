"""Compares an encoder's hidden states, and its heads' outputs as log-probabilities or numbers."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from ptune.codecs.labels import Problem
from ptune.formats.bundle import Hop
from ptune.parity import Array, compare
from ptune.tasks.encoder.saving import said
from ptune.verify import limits

States = list[NDArray[np.float32]]
VECTORS = "max |Δ| of a vector's numbers ≤ {:g} of the largest, or of 1"


def readable(problem: Problem, values: NDArray[np.float32]) -> Array:
    """Logits in the form to compare: log-probabilities, or a regression's numbers; [n, labels]."""
    rows = torch.from_numpy(np.ascontiguousarray(values)).reshape(-1, values.shape[-1])
    return said(rows, problem).astype(np.float32)


def compare_said(name: str, problem: Problem, there: States, here: States, share: float = 1.0) -> Hop:
    """Measures one hop of a head's outputs. share: of the limit that the hop may use."""
    if problem == "vector":
        return _numbers(name, there, here, limits.MAX_ABS_VECTOR * share, VECTORS)
    limit = limits.MAX_ABS_LOGPROB * share
    expected, computed = ([readable(problem, one) for one in side] for side in (there, here))
    if problem == "regression":
        return _numbers(name, expected, computed, limit, "max |Δ| ≤ {:g} of the largest number")
    return compare(name, expected, computed, max_abs_logprob=limit)


def compare_hidden(name: str, there: States, here: States, share: float = 1.0) -> Hop:
    """Measures one hop of hidden states."""
    return _numbers(
        name, there, here, limits.MAX_ABS_LOGPROB * share, "max |Δ| of hidden states ≤ {:g} of the largest"
    )


def _numbers(name: str, there: Iterable[Array], here: Iterable[Array], limit: float, words: str) -> Hop:
    there, here = list(there), list(here)
    size = max(1.0, *(float(np.abs(one).max()) for one in there))
    off = (
        float(np.max([np.abs(a.astype(np.float64) - b).max() for a, b in zip(there, here, strict=True)]))
        / size
    )
    finite = bool(np.isfinite(off))
    return Hop(
        name=name,
        prompts=len(there),
        positions=sum(len(one) for one in there),
        max_abs_logprob=off if finite else None,
        limit=words.format(limit),
        passed=finite and off <= limit,
        note="" if finite else "some values are not finite",
    )
