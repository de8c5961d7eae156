"""Calibration: how often a classifier is right when its confidence is 80 %."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 15  # of equal width, as in Guo et al. 2017, "On Calibration of Modern Neural Networks"


def bins_of(confidence: NDArray[Any]) -> NDArray[np.int64]:
    """Bin of each confidence, [rows]; a bin holds its upper edge, as in scikit-learn's calibration_curve."""
    edges = np.linspace(0.0, 1.0, BINS + 1)
    return np.searchsorted(edges[1:-1], confidence)


def reliability(confidence: NDArray[Any], right: NDArray[np.bool_]) -> tuple[list[dict[str, float]], float]:
    """Returns the non-empty bins and the expected calibration error: mean |right - confidence| weighted by rows."""
    from sklearn.calibration import calibration_curve

    confidence = np.clip(confidence.astype(np.float64), 0.0, 1.0)
    hit, meant = calibration_curve(right, confidence, n_bins=BINS, strategy="uniform", pos_label=True)
    rows = np.bincount(bins_of(confidence), minlength=BINS)
    filled = np.flatnonzero(rows)
    curve = [
        {
            "low": float(at / BINS),
            "high": float((at + 1) / BINS),
            "rows": int(rows[at]),
            "confidence": float(sure),
            "accuracy": float(share),
        }
        for at, share, sure in zip(filled, hit, meant, strict=True)
    ]
    error = sum(one["rows"] * abs(one["accuracy"] - one["confidence"]) for one in curve) / len(right)
    return curve, float(error)
