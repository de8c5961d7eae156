"""Vectors of many items as int8: a quarter of the bytes per search. Every item is scanned, so filters cost nothing.

The best items of a scan are scored again in float32 (`ItemIndex.first`). Products of int8 are exact, so a scan finds the
same items on every machine, and a recall measured once holds everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
LEAST_ITEMS = 100_000
"""With fewer items float32 is searched: it takes some milliseconds."""
LEAST_RECALL = 0.95
_BLOCK = 16_384  # rows processed at a time
_LARGEST = 127


def available() -> bool:
    """Whether the package for int8 products is installed."""
    return find_spec("numkong") is not None


def kept(count: int) -> int:
    """Number of candidates from a scan, of which float32 chooses `count`."""
    return 4 * count + 100


def rounded(vectors: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
    """codes [items, width] and scales [items]: each vector is approximately its codes times its scale."""
    codes = np.empty(vectors.shape, np.int8)
    scales = np.empty(len(vectors), np.float32)
    for start in range(0, len(vectors), _BLOCK):
        rows = vectors[start : start + _BLOCK]
        scale = np.maximum(np.abs(rows).max(1), np.finfo(np.float32).tiny) / np.float32(_LARGEST)
        codes[start : start + _BLOCK] = np.rint(rows / scale[:, None])
        scales[start : start + _BLOCK] = scale
    return codes, scales


class Int8Scan:
    """An int8 copy of vectors [items, width]. threads: number of threads per search."""

    def __init__(self, vectors: Floats, threads: int) -> None:
        self.codes, self.scales = rounded(vectors)
        self._parts = [slice(start, start + _BLOCK) for start in range(0, len(vectors), _BLOCK)]
        self._pool = ThreadPoolExecutor(threads)

    def products(self, vector: Floats) -> Floats:
        """Approximate products [items] of the items with a vector [width]."""
        codes, (scale,) = rounded(vector[None])
        scores = np.empty(len(self.codes), np.float32)

        def scan(part: slice) -> None:
            np.multiply(
                _exact(codes, self.codes[part])[0], self.scales[part], out=scores[part], casting="same_kind"
            )

        list(self._pool.map(scan, self._parts))
        scores *= scale
        return scores


def _exact(left: npt.NDArray[np.int8], right: npt.NDArray[np.int8]) -> npt.NDArray[Any]:
    """[left, right] of two matrices with rows of the same width; the interpreter is free meanwhile."""
    import numkong

    return np.asarray(numkong.cdist(left, right, "dot"))


def recall(vectors: Floats, queries: Floats, count: int = 10) -> float:
    """The share of the queries' `count` nearest items that are among the candidates of a scan.

    queries: [queries, width]. It needs no package: float32 holds sums of int8 products exactly up to a width of 1,040.
    """
    query_codes, _ = rounded(queries)
    hits = 0
    exact, coarse = [np.zeros((len(queries), len(vectors)), np.float32) for _ in range(2)]
    for start in range(0, len(vectors), _BLOCK):
        rows = vectors[start : start + _BLOCK]
        codes, scales = rounded(rows)
        exact[:, start : start + _BLOCK] = queries @ rows.T
        coarse[:, start : start + _BLOCK] = (
            query_codes.astype(np.float32) @ codes.T.astype(np.float32)
        ) * scales
    for right, near in zip(exact, coarse, strict=True):
        hits += len(set(_first(right, count)) & set(_first(near, kept(count))))
    return hits / (len(queries) * min(count, len(vectors)))


def _first(scores: Floats, count: int) -> Sequence[int]:
    count = min(count, len(scores))
    return np.argpartition(-scores, count - 1)[:count].tolist()
