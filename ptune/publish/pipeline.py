"""The way of every model into a bundle, and of an adapter into a bundle that is there.

A reference in torch is opened (ptune.publish.publishable), its graphs are traced and written, adapters are installed, golden
vectors recorded, profiles written and held to their gates, every hop is proved, and the figures are recorded. All of that
happens beside the bundle's place: only what passed is moved into it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ptune.formats.bundle import FP32, AdapterRecord, Bundle
from ptune.formats.whole_write import whole_folder
from ptune.publish.figures import record_proof
from ptune.publish.golden import record_golden
from ptune.publish.profiles import add_profiles, prove_profiles
from ptune.publish.publishable import Publishable
from ptune.publish.steps import replacement
from ptune.verify.proof import Proof


def export(model: Publishable, out: Path, *, threads: int, profiles: Sequence[str] = (FP32,)) -> Proof:
    """Writes a bundle, proves it and moves it to `out`.

    A profile that misses its gate is left out; see `Proof.refused`.
    Raises: ParityError where a hop of the fp32 graph drifts beyond its limit (nothing is left at `out`).
    """
    with whole_folder(out) as stage:
        bundle = model.write_graphs(stage)
        model.save_held_out(bundle)
        for name, adapter in model.adapters.items():
            model.install(bundle, adapter, name)
        record_golden(model, bundle, threads)
        beside = add_profiles(
            model, bundle, profiles, threads
        )  # before the proof of fp32, which takes longer
        proof = model.prove(bundle, [*model.adapters], threads).after(model.earlier_hops).then(beside)
        default = model.default_profile(bundle, profiles, threads)
        bundle.write_manifest(bundle.manifest.model_copy(update={"default_profile": default}))
        record_proof(bundle, proof)
    return proof


def add(
    model: Publishable, original: Bundle, adapter: Path, name: str, *, prove_it: bool, threads: int
) -> AdapterRecord:
    """Adds a PEFT folder to the bundle that `model` was opened from: on a copy, which then takes its place.

    prove_it: whether it is compared with torch; every profile is then held to its gate for it, too.
    Raises: AdapterError that lists everything which keeps it from being served; ParityError where it drifts.
    """
    with replacement(original) as bundle:
        model.install(bundle, adapter, name, proved=prove_it)
        record_golden(model, bundle, threads)
        if prove_it:
            proof = Proof(adapters=model.prove(bundle, [name], threads).adapters)
            record_proof(bundle, proof.then(prove_profiles(model, bundle, [name], threads, base=False)))
    return Bundle.open(original.folder).adapter(name)


def verify(model: Publishable, bundle: Bundle, threads: int) -> Proof:
    """Measures every hop of the bundle that `model` was opened from again, on this machine. Changes nothing."""
    adapters = [*bundle.manifest.adapters]
    proof = model.prove(bundle, adapters, threads)
    return proof.then(prove_profiles(model, bundle, adapters, threads))
