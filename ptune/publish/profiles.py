"""The profiles beside fp32: checks the request, writes each, and checks its gate."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence

from ptune.errors import ParityError, UsageError
from ptune.formats.bundle import FP32, NF4, Bundle
from ptune.progress import say
from ptune.publish.figures import refuse_drift
from ptune.publish.golden import record_golden
from ptune.publish.publishable import Publishable
from ptune.publish.steps import enter_golden
from ptune.verify.proof import Proof

AUTO = "auto"  # tries all profiles of the kind; serves the fastest that holds its gate


def check_profiles(requested: Sequence[str], kind: type[Publishable], source: str, noun: str) -> None:
    """Raises: UsageError if this kind of model does not have the requested profiles.

    source: the run or model that is exported; noun: its kind, in words.
    """
    if tuple(requested) == (FP32,) or (tuple(requested) == (AUTO,) and kind.auto_profiles):
        return
    if not kind.profiles:
        raise UsageError(f"{source} is of {noun}, which has one graph of each kind: {FP32}")
    references = {FP32, NF4} & {FP32, *kind.profiles}
    if not references & {*requested} or not {*requested} <= {FP32, *kind.profiles}:
        beside = " or ".join(kind.profiles)
        instead = " (of a base in nf4 also nf4)" if NF4 in references else ""
        raise UsageError(
            f"--profiles {','.join(requested)!r}: {FP32}, which is what others are compared with{instead}, and {beside}"
            " beside it"
        )


@contextlib.contextmanager
def reference_in_nf4(
    model: Publishable, bundle: Bundle, requested: Sequence[str], threads: int
) -> Iterator[None]:
    """If nf4 is requested without fp32, nf4 takes fp32's place. Where others are, too, the fp32 graph is there for them to
    be made of, and is removed at last; of nf4 alone, it was never written.

    The two hold the same weights, and nf4 takes an eighth of the memory. Raises: BackboneError if no weight has nf4 values.
    """
    if FP32 in requested or NF4 not in requested or NF4 in bundle.manifest.graphs:
        yield
        return
    model.write_profile(bundle, NF4, threads)
    graphs = {name: graph for name, graph in bundle.manifest.graphs.items() if name != FP32}
    bundle.write_manifest(bundle.manifest.model_copy(update={"graphs": graphs, "default_profile": NF4}))
    yield
    shutil.rmtree(bundle.folder / "graphs" / FP32)


def add_profiles(model: Publishable, bundle: Bundle, requested: Sequence[str], threads: int) -> Proof:
    """Writes and proves the requested profiles beside the reference, the one that rounds most first.

    A profile that misses its gate is removed again, and the reason is printed. The proof lists it as refused if it was
    requested by name.
    """
    if tuple(requested) == (bundle.reference,):
        return Proof()
    held_out = model.save_held_out_for_profiles(bundle)
    auto, proof = tuple(requested) == (AUTO,), Proof()
    wanted = {*(model.auto_profiles if auto else requested)} - {bundle.reference}
    for profile in (name for name in model.profiles if name in wanted):
        outcome = _add_profile(model, bundle, profile, threads, may_round=not auto)
        if isinstance(outcome, Proof):
            proof = proof.then(outcome)
            continue
        say(f"{profile} is left out: {outcome}")
        _remove_profile(bundle, profile)
        if not auto:
            proof = proof.then(Proof(refused={profile: outcome}))
    if [*bundle.manifest.graphs] == [bundle.reference]:
        held_out.unlink()
        enter_golden(bundle)
    return proof


def _add_profile(
    model: Publishable, bundle: Bundle, profile: str, threads: int, *, may_round: bool
) -> Proof | str:
    """Writes a profile's graph and proves it. Returns the proof, or the reason for removing it.

    may_round: whether int4 may round weights; only if it was requested by name.
    """
    model.write_profile(bundle, profile, threads)
    kept = bundle.manifest.graphs[profile].kept
    if kept is not None and kept < 1 and not may_round:
        return "its source is not in 4 bits, so its weights would be rounded"
    record_golden(model, bundle, threads, [profile])
    proof = model.prove_profile(
        bundle, profile, [*bundle.manifest.adapters], threads, base=True, to_the_end=False
    )
    try:
        refuse_drift(proof)
    except ParityError as error:
        return str(error)
    return proof


def prove_profiles(
    model: Publishable, bundle: Bundle, adapters: Sequence[str], threads: int, *, base: bool = True
) -> Proof:
    """Compares every profile of a bundle with its reference. base: also for the bare base."""
    proof = Proof()
    for profile in bundle.manifest.graphs:
        if profile != bundle.reference:
            proof = proof.then(
                model.prove_profile(bundle, profile, adapters, threads, base=base, to_the_end=True)
            )
    return proof


def _remove_profile(bundle: Bundle, profile: str) -> None:
    shutil.rmtree(bundle.folder / "graphs" / profile)
    bundle.golden_file(profile).unlink(missing_ok=True)
    graphs = {name: graph for name, graph in bundle.manifest.graphs.items() if name != profile}
    bundle.write_manifest(bundle.manifest.model_copy(update={"graphs": graphs}))
    enter_golden(bundle)
