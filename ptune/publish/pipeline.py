"""The publishing pipeline: exports any model to a bundle, and adds adapters to an existing bundle.

It opens a reference in torch (ptune.publish.publishable), traces and writes its graphs, installs adapters, records golden
vectors, writes profiles and checks their gates, proves every hop, and records the figures. All this happens in a temporary
place; only a bundle that passed is moved into its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ptune.formats.bundle import BASE, FLOAT_CACHE, FP32, AdapterRecord, Bundle, CacheType
from ptune.formats.hop_log import note_hops
from ptune.formats.whole_write import whole_folder
from ptune.publish.caches import add_caches, prove_caches
from ptune.publish.figures import record_proof
from ptune.publish.golden import record_golden, record_served_golden
from ptune.publish.profiles import add_profiles, prove_profiles, reference_in_nf4
from ptune.publish.publishable import Publishable
from ptune.publish.steps import replacement
from ptune.verify.proof import Proof


def export(
    model: Publishable,
    out: Path,
    *,
    threads: int,
    profiles: Sequence[str] = (FP32,),
    cache: CacheType = FLOAT_CACHE,
) -> Proof:
    """Writes a bundle, proves it and moves it to `out`.

    cache: type of keys and values that each profile gets a graph for, beside float32.
    A profile or cache that misses its gate is left out; see `Proof.refused`.
    Raises: ParityError if a hop of the reference graph drifts beyond its limit (nothing is left at `out`).
    """
    for name, hops in model.earlier_hops.items():
        note_hops(name, hops)
    with whole_folder(out) as stage:
        bundle = model.write_graphs(stage, profiles)
        with reference_in_nf4(model, bundle, profiles, threads):
            model.save_held_out(bundle)
            for name, adapter in model.adapters.items():
                model.install(bundle, adapter, name)
            record_golden(model, bundle, threads)
            beside = add_profiles(
                model, bundle, profiles, threads
            )  # before the slower proof of the reference
            beside = beside.then(add_caches(model, bundle, cache, threads))
            proof = model.prove(bundle, [*model.adapters], threads).after(model.earlier_hops).then(beside)
        for name, measured in {BASE: proof.base, **proof.adapters}.items():
            note_hops(name, measured)  # those that were not noted one by one
        default = model.default_profile(bundle, profiles, threads)
        bundle.write_manifest(bundle.manifest.model_copy(update={"default_profile": default}))
        record_proof(bundle, proof)
        record_served_golden(model, bundle, threads, proof)
    return proof


def add(
    model: Publishable,
    original: Bundle,
    adapter: Path,
    name: str,
    *,
    prove_it: bool,
    threads: int,
    rank: int | None = None,
) -> AdapterRecord:
    """Adds a PEFT folder to a copy of the bundle that `model` was opened from; the copy then replaces it.

    prove_it: compares it with torch, and checks every profile's gate for it. rank: that it is cut to, if it is not LoRA.
    Raises: AdapterError that lists every reason why it cannot be served; ParityError if it drifts.
    """
    with replacement(original) as bundle:
        model.install(bundle, adapter, name, proved=prove_it, rank=rank)
        record_golden(model, bundle, threads)
        proof = Proof()
        if prove_it:
            proof = Proof(adapters=model.prove(bundle, [name], threads).adapters)
            proof = proof.then(prove_profiles(model, bundle, [name], threads, base=False))
            proof = proof.then(prove_caches(model, bundle, [name], threads, base=False))
            record_proof(bundle, proof)
        record_served_golden(model, bundle, threads, proof)
    return Bundle.open(original.folder).adapter(name)


def verify(model: Publishable, bundle: Bundle, threads: int) -> Proof:
    """Measures every hop of the bundle that `model` was opened from again on this machine, and holds it to those of the own
    operators that it would serve with. Changes nothing."""
    adapters = [*bundle.manifest.adapters]
    proof = model.prove(bundle, adapters, threads)
    proof = proof.then(prove_profiles(model, bundle, adapters, threads))
    proof = proof.then(prove_caches(model, bundle, adapters, threads))
    return proof.binding(model.served_forms(bundle))
