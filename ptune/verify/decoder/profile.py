"""The gate of a decoder's profile: its answers must match fp32's, and must not depend on the rest of the batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing

import numpy as np

from ptune.engine.decoder.engine import Engine
from ptune.engine.decoder.forms import to_measure
from ptune.engine.decoder.request import Request
from ptune.engine.sampling import Sampling
from ptune.formats.bundle import BASE, NF4, Bundle
from ptune.verify.decoder import company
from ptune.verify.decoder.gate import CHUNK, Gate
from ptune.verify.decoder.graph import PlainGraph
from ptune.verify.decoder.held_tokens import HeldTokens
from ptune.verify.limits import (
    INT4_KEPT_KL,
    INT4_KEPT_TOP1,
    INT4_KL,
    INT4_TOP1,
    MAX_ABS_SAME_WEIGHTS,
    PROFILE_KL,
    PROFILE_TOP1,
)
from ptune.verify.proof import Proof

MEASURED = 48  # tokens


def prove_profile(
    bundle: Bundle,
    profile: str,
    adapters: Sequence[str],
    held: HeldTokens,
    *,
    threads: int,
    base: bool = True,
    to_the_end: bool = True,
    report: Callable[[str], None] = lambda _: None,
) -> Proof:
    """Compares a profile, and what servers compute of it, with the reference graph on held-out tokens, for the base and each
    adapter, then with itself in company.

    base: also compares the bare base. to_the_end: continues after a hop beyond its limit.
    """
    signature, against = bundle.decoder, bundle.reference
    report(f"{profile} against {against}")
    right, graph = (PlainGraph(bundle.graph_path(one), signature, threads) for one in (against, profile))
    limits, weights = _held_to(bundle, profile)
    note = "; ".join(filter(None, (weights, held.origin)))
    gate = Gate(bundle, f"{against} → {profile}", right, held.sequences, threads, limits, note, to_the_end)
    hops = gate.hops(graph, to_measure(bundle, profile), [*([BASE] if base else []), *adapters])
    if not (to_the_end or Proof.of(hops).passed):
        return Proof.of(hops)
    del gate, right, graph
    report(f"{profile} alone and in company")
    crowd = company.hop(bundle, profile, held.sequences, threads=threads)
    first = BASE if base else next(iter(adapters), BASE)
    hops.setdefault(first, []).append(crowd)
    return Proof.of(hops)


def _held_to(bundle: Bundle, profile: str) -> tuple[dict[str, float], str]:
    """A profile's limits, and a note on its weights."""
    if profile == NF4:
        return {"max_abs_logprob": MAX_ABS_SAME_WEIGHTS}, "the very weights of fp32, on the bytes of nf4"
    kept = bundle.manifest.graphs[profile].kept
    if kept is None:
        return {"mean_kl": PROFILE_KL, "top1": PROFILE_TOP1}, ""
    if kept == 1:
        return {"mean_kl": INT4_KEPT_KL, "top1": INT4_KEPT_TOP1}, "weights as the source has them in 4 bits"
    return {"mean_kl": INT4_KL, "top1": INT4_TOP1}, f"{1 - kept:.1%} of the weights rounded to 4 bits"


def seconds_a_token(bundle: Bundle, profile: str, threads: int) -> float:
    """Median seconds per token of a single sequence, over MEASURED tokens."""
    arrivals: list[float] = []
    with closing(_engine(bundle, profile, threads)) as engine:
        prompt = tuple(range(min(8, engine.signature.vocab_size)))
        most = min(MEASURED, engine.context - len(prompt))
        for _ in engine.generate(Request(prompt, sampling=Sampling(temperature=0), max_tokens=most)):
            arrivals.append(time.perf_counter())
    return float(np.median(np.diff(arrivals)))


def _engine(bundle: Bundle, profile: str, threads: int) -> Engine:
    return Engine.open(
        bundle,
        profile=profile,
        threads=threads,
        prefill_chunk=CHUNK,
        max_rows=32,
        kernels="exact",
        replay_golden=False,
    )
