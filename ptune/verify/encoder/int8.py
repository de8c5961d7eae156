"""The gate of the profile int8: for each adapter it must give the answers of fp32 on held-out inputs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

import numpy as np
from numpy.typing import NDArray

from ptune.codecs.image import Preprocessing
from ptune.codecs.labels import Problem
from ptune.engine.encoder.batch import Item
from ptune.engine.encoder.engine import EncoderEngine
from ptune.engine.onnx_graph import Array
from ptune.formats.bundle import FP32, INT8, Bundle, Hop
from ptune.tasks.encoder.infer import Encoded
from ptune.verify.encoder import held_images, held_texts
from ptune.verify.limits import INT8_COSINE, INT8_SAME, INT8_SPREAD

_MOVED: dict[Problem, str] = {"regression": "mean |Δ| / spread", "vector": "mean (1 − cosine)"}
AT_ONCE = 256  # texts or images in the engine at once; images are large


def held_inputs(bundle: Bundle) -> Sequence[Encoded]:
    """Reads a bundle's held-out texts or images. Raises: FormatError."""
    if bundle.encoder.modality == "text":
        return held_texts.load(bundle.folder)
    (name,) = bundle.manifest.adapters  # an image bundle with this profile takes no second adapter
    return held_images.load(bundle.folder, Preprocessing.model_validate(bundle.adapter(name).preprocessing))


def prove_int8(
    bundle: Bundle, adapters: Sequence[str], inputs: Sequence[Encoded], *, threads: int
) -> dict[str, Hop]:
    """Measures one hop per adapter, fp32 → int8, over all `inputs`."""
    floats, rounded = (answers(bundle, profile, adapters, inputs, threads) for profile in (FP32, INT8))
    problems = {name: bundle.adapter(name).problem or "single" for name in adapters}
    return {name: same_answers(problems[name], floats[name], rounded[name]) for name in adapters}


def answers(
    bundle: Bundle, profile: str, adapters: Sequence[str], inputs: Sequence[Encoded], threads: int
) -> dict[str, list[Array]]:
    """Logits [answers, labels] of each text or image: one answer for the whole, or one per word of a tagger."""
    by_adapter: dict[str, list[Array]] = {name: [] for name in adapters}
    engine = EncoderEngine.open(bundle, profile=profile, threads=threads, replay_golden=False)
    with closing(engine):
        for start in range(0, len(inputs), AT_ONCE):
            part = inputs[start : start + AT_ONCE]
            for name in adapters:
                logits = engine.logits([Item(one.inputs, name) for one in part])
                by_adapter[name] += [_rows(row, one) for row, one in zip(logits, part, strict=True)]
    return by_adapter


def _rows(logits: Array, text: Encoded) -> Array:
    if logits.ndim == 1:
        return logits[None]
    return logits if text.first is None else logits[list(text.first)]


def same_answers(problem: Problem, there: Sequence[Array], here: Sequence[Array]) -> Hop:
    """Measures the share of equal answers: the likeliest label; each yes or no of several labels; a vector of nearly
    the same direction; a regression's number that moved by at most a tenth of the numbers' standard deviation."""
    floats, rounded = (np.concatenate(side).astype(np.float64) for side in (there, here))
    if problem == "regression":
        spread = float(floats.std()) or 1.0
        same, moved = np.abs(rounded - floats) <= INT8_SPREAD * spread, np.abs(rounded - floats) / spread
        words = f"moved by ≤ {INT8_SPREAD:g} of their spread"
    elif problem == "vector":
        lengths = np.linalg.norm(floats, axis=-1) * np.linalg.norm(rounded, axis=-1)
        cosines = (floats * rounded).sum(-1) / np.maximum(lengths, 1e-12)
        same, moved = cosines >= INT8_COSINE, 1 - cosines
        words = f"cosine ≥ {INT8_COSINE:g}"
    else:
        moved = np.abs(_probabilities(rounded, problem) - _probabilities(floats, problem))
        several = problem == "multi"
        same = (rounded > 0) == (floats > 0) if several else rounded.argmax(-1) == floats.argmax(-1)
        words = "same answer"
    finite = np.isfinite(floats).all() and np.isfinite(rounded).all()
    share = float(same.mean()) if finite else 0.0
    mean = float(moved.mean())
    return Hop(
        name=f"{FP32} → {INT8}",
        prompts=len(there),
        positions=len(floats),
        top1=share,
        limit=f"{words}: ≥ {INT8_SAME:.0%}",
        passed=share >= INT8_SAME,
        note=f"{_MOVED.get(problem, 'mean |Δp|')} {mean:.4f}",
    )


def _probabilities(logits: NDArray[np.float64], problem: Problem) -> NDArray[np.float64]:
    if problem == "multi":
        return 1 / (1 + np.exp(-logits))
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    probabilities: NDArray[np.float64] = powers / powers.sum(-1, keepdims=True)
    return probabilities
