"""Graphs with another type of keys and values, beside those of each profile: written, proved, or removed again."""

from __future__ import annotations

from ptune.errors import ParityError, UsageError
from ptune.formats.bundle import (
    FLOAT_CACHE,
    INT8_CACHE,
    INT8_CACHE_BARE,
    INT8_CACHE_NO_GAINS,
    INT8_CACHE_SCALES,
    Bundle,
    CacheType,
)
from ptune.progress import say
from ptune.publish.figures import refuse_drift
from ptune.publish.golden import record_golden
from ptune.publish.publishable import Publishable
from ptune.publish.steps import enter_caches, enter_golden
from ptune.verify.proof import Proof


def check_cache(requested: CacheType, kind: type[Publishable], source: str, noun: str) -> None:
    """Raises: UsageError if this kind of model keeps no keys and values of the requested type."""
    if requested != FLOAT_CACHE and requested not in kind.caches:
        raise UsageError(
            f"{source} is of {noun}, which has no cache of another type: leave out --kv-cache-dtype"
        )


def add_caches(model: Publishable, bundle: Bundle, requested: CacheType, threads: int) -> Proof:
    """Writes and proves the requested type for every profile of the bundle, which has its profiles already.

    Where it misses its gate, its graphs are removed, the reason is printed, and the proof lists it as refused.
    """
    proof = Proof()
    if requested == FLOAT_CACHE:
        return proof
    model.save_held_out_for_profiles(bundle)
    model.write_caches(bundle, threads)
    record_golden(model, bundle, threads)
    for profile in [*bundle.manifest.graphs]:
        found = model.prove_cache(bundle, profile, [*bundle.manifest.adapters], threads, base=True)
        try:
            refuse_drift(found)
        except ParityError as error:
            say(f"{profile} is left without an {requested} cache: {error}")
            _remove(bundle, profile, requested)
            found = Proof(refused={f"{requested} cache of {profile}": str(error)})
        proof = proof.then(found)
    return proof


def prove_caches(
    model: Publishable, bundle: Bundle, adapters: list[str], threads: int, *, base: bool = True
) -> Proof:
    """Compares every cache of another type with the same profile's in float32. base: also for the bare base."""
    proof = Proof()
    for profile, graph in bundle.manifest.graphs.items():
        if graph.kv_caches:
            proof = proof.then(model.prove_cache(bundle, profile, adapters, threads, base=base))
    return proof


def _remove(bundle: Bundle, profile: str, cache: CacheType) -> None:
    for name in (INT8_CACHE, INT8_CACHE_BARE, INT8_CACHE_NO_GAINS, INT8_CACHE_SCALES):
        bundle.graph_path(profile).with_name(name).unlink(missing_ok=True)
    bundle.golden_file(profile, cache).unlink(missing_ok=True)
    enter_caches(bundle, profile, ())
    enter_golden(bundle)
