"""Compares the item vectors beside an adapter, computed by torch, with those of the bundle's engine."""

from __future__ import annotations

from contextlib import closing

import numpy as np

from ptune.formats.bundle import Bundle, Hop
from ptune.tasks.encoder.infer import load
from ptune.tasks.recommendation.index import ARRAYS, ItemIndex
from ptune.tasks.retrieval.infer import embed
from ptune.verify.limits import MAX_ABS_VECTOR
from ptune.verify.proof import Proof

MOST = 256  # titles to compute again, spread over the catalogue


def with_items(bundle: Bundle, proof: Proof, threads: int) -> Proof:
    """Adds to a proof, for adapters with items, the hop from the stored vectors to the served ones."""
    with_index = [name for name in proof.adapters if ARRAYS in bundle.adapter(name).files]
    return proof.then(Proof.of({name: (_hop(bundle, name, threads),) for name in with_index}))


def _hop(bundle: Bundle, name: str, threads: int) -> Hop:
    index = ItemIndex.open(bundle.adapter_path(name))
    rows = np.unique(np.linspace(0, len(index.items) - 1, min(MOST, len(index.items))).astype(int))
    with closing(load(bundle.folder, threads=threads, replay_golden=False)) as model:
        here = embed(model, [index.titles[row] for row in rows], name, truncate=True)
    there = index.vectors[rows]
    apart = float(np.abs(here - there).max()) if here.shape == there.shape else float("inf")
    return Hop(
        name="torch → item vectors served",
        prompts=len(rows),
        positions=len(rows),
        max_abs_logprob=apart,
        limit=f"max |Δ| of a vector ≤ {MAX_ABS_VECTOR:g}",
        passed=bool(apart <= MAX_ABS_VECTOR),
    )
