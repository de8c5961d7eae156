"""The gate of an int8 cache: the answers of the same profile with a float32 cache, also far back, and in any company."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ptune.engine.decoder.forms import to_measure
from ptune.formats.bundle import BASE, FLOAT_CACHE, Bundle, CacheType, Hop
from ptune.formats.signature import Signature
from ptune.parity import Array, compare
from ptune.verify.decoder import company
from ptune.verify.decoder.gate import Gate
from ptune.verify.decoder.graph import PlainGraph
from ptune.verify.decoder.held_tokens import HeldTokens
from ptune.verify.limits import CACHE_KL, CACHE_TOP1
from ptune.verify.proof import Proof

BOTH: tuple[CacheType, CacheType] = (FLOAT_CACHE, "int8")
FAR = 2048  # tokens of the text that repeats passages from its beginning on
PASSAGES = 12  # most of them
PASSAGE = 32  # tokens of each, at most
CUE = 4  # tokens by which a passage is recognised
SHARE = 4  # of the text, at most one part in so many is repeated


def prove_cache(
    bundle: Bundle,
    profile: str,
    adapters: Sequence[str],
    held: HeldTokens,
    *,
    threads: int,
    base: bool = True,
    report: Callable[[str], None] = lambda _: None,
) -> Proof:
    """Compares a profile's int8 cache, and what servers compute with it, with its float32 cache, for the base and each adapter;
    then with itself in company.

    base: also the bare base, to which the text with passages from far back is given, at both ends of the model's context.
    Stops at the first hop beyond its limit.
    """
    report(f"{profile} with an int8 cache against float32")
    floats, rounded = (
        PlainGraph(bundle.graph_path(profile, cache), bundle.decoder, threads) for cache in BOTH
    )
    title = f"{profile}: float32 cache → int8 cache"
    limits = {"mean_kl": CACHE_KL, "top1": CACHE_TOP1}
    gate = Gate(bundle, title, floats, held.sequences, threads, limits, held.origin)
    hops = gate.hops(rounded, to_measure(bundle, profile, "int8"), [*([BASE] if base else []), *adapters])
    if base and Proof.of(hops).passed:
        hops[BASE].append(_far_back(profile, gate, rounded))
    if not Proof.of(hops).passed:
        return Proof.of(hops)
    del gate, floats, rounded
    report(f"{profile} with an int8 cache, alone and in company")
    crowd = company.hop(bundle, profile, held.sequences, threads=threads, cache="int8")
    hops.setdefault(BASE if base else next(iter(adapters), BASE), []).append(crowd)
    return Proof.of(hops)


def _far_back(profile: str, gate: Gate, rounded: PlainGraph) -> Hop:
    """Compares how passages are continued that stood in the text long before."""
    signature = rounded.signature
    ids, wanted = far_text(signature, gate.held)
    starts = (0, signature.context - len(ids))
    there, here = (
        [graph.logprobs(ids, wanted, start=start) for start in starts] for graph in (gate.right, rounded)
    )
    said = [_mean_of_text(rows, ids, wanted) for rows in (*there, *here)]
    return compare(
        f"{profile}: passages from far back, float32 cache → int8 cache",
        there,
        here,
        note=f"{len(ids):,} tokens at both ends of the context; log p of a passage's token"
        f" {np.mean(said[:2]):.3f} → {np.mean(said[2:]):.3f}",
        **gate.limits,
    )


def far_text(signature: Signature, held: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
    """A text whose end repeats passages of the rest, and the positions whose next token is a repeated one."""
    flat = [token for ids in held for token in ids]
    length = min(FAR, signature.context)
    size = min(PASSAGE, length // SHARE)
    count = max(1, min(PASSAGES, length // (SHARE * size)))
    body = length - count * size
    text = (flat * (-(-body // len(flat))))[:body]
    for number in range(count):
        start = number * body // (count + 1)
        text += text[start : start + size]
    wanted = [body + number * size + at for number in range(count) for at in range(CUE - 1, size - 1)]
    return text, wanted


def _mean_of_text(rows: Array, ids: Sequence[int], wanted: Sequence[int]) -> float:
    return float(np.mean([row[ids[at + 1]] for row, at in zip(rows, wanted, strict=True)]))
