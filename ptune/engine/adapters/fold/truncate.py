"""Updates cut to a rank by their singular values, at a measured loss (Eckart and Young 1936)."""

from __future__ import annotations

import numpy as np

from ptune.engine.adapters.fold.layer import Factor, Update

SMALL = 1024  # up to this side a matrix is decomposed whole
SPARE, PASSES = 16, 8  # of the randomised decomposition: columns beside those asked for, and passes


def cut(update: Update, rank: int) -> tuple[Update, float, float]:
    """The nearest update of at most this rank; the squared norms of what is lost, and of the whole."""
    if update.b is None:
        whole = update.a
        left, values, right = _decomposed(whole, rank)
    else:
        q_b, r_b = np.linalg.qr(update.b)
        q_a, r_a = np.linalg.qr(update.a.T)
        whole = r_b @ r_a.T
        left, values, right = _decomposed(whole, rank)
    near = left * values
    lost = float(np.square(whole - near @ right, dtype=np.float64).sum())
    size = float(np.square(whole, dtype=np.float64).sum())
    if update.b is not None:
        near, right = q_b @ near, right @ q_a.T
    return Update(np.ascontiguousarray(right), np.ascontiguousarray(near)), lost, size


def _decomposed(matrix: Factor, rank: int) -> tuple[Factor, Factor, Factor]:
    """The largest singular values and their vectors: U [m, r], s [r], V [r, n].

    Of a large matrix by a randomised decomposition with a fixed seed (Halko, Martinsson and Tropp 2011,
    https://arxiv.org/abs/0909.4061).
    """
    width = rank + SPARE
    if min(matrix.shape) <= max(SMALL, 4 * width):
        left, values, right = np.linalg.svd(matrix, full_matrices=False)
        return left[:, :rank], values[:rank], right[:rank]
    found = np.random.default_rng(0).standard_normal((matrix.shape[1], width)).astype(np.float32)
    for _ in range(PASSES):
        found = np.linalg.qr(matrix.T @ np.linalg.qr(matrix @ found)[0])[0]
    left, values, right = np.linalg.svd(matrix @ found, full_matrices=False)
    return left[:, :rank], values[:rank], right[:rank] @ found.T
