"""What publishing takes whatever the model: places, identities, figures and progress."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from ptune.config.recipe import Backbone
from ptune.engine.adapters.folder import of_bundle, write_record
from ptune.errors import BackboneError, FormatError, ParityError, PtuneError, UsageError
from ptune.evaluation.require import refuse_failed
from ptune.formats.bundle import FP32, INT4, INT8, NF4, BaseIdentity, Bundle, Hop
from ptune.formats.run import Run
from ptune.formats.whole_write import read_json, whole_folder
from ptune.progress import say
from ptune.verify.proof import Proof


def check_finished(run: Run) -> None:
    """Raises: UsageError where a run has not ended yet, or its evaluation missed what was required of it."""
    status = run.record().status
    if status not in ("finished", "stopped early"):
        raise UsageError(f"{run.folder} is {status}: go on with the command of run.json and --resume")
    refuse_failed(run)


AUTO = "auto"  # of a chat model: all profiles, and the fastest that holds its gate is served


def check_profiles(profiles: Sequence[str], *, auto: bool) -> None:
    """Raises: UsageError where graphs are asked for that no bundle has.

    auto: of a chat model, which may have int4 and nf4, and whose profiles may be chosen by measurement.
    """
    if auto and tuple(profiles) == (AUTO,):
        return
    known = (INT8, INT4, NF4) if auto else (INT8,)
    if not {*profiles} <= {FP32, *known} or FP32 not in profiles:
        beside = " or ".join(known)
        raise UsageError(
            f"--profiles {','.join(profiles)!r}: {FP32}, which is what others are compared with, and {beside} beside it"
        )


def check_place(out: Path, force: bool) -> None:
    """Raises: UsageError where something stands at `out` that may not be replaced."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        read_json(out / "manifest.json")
    except FormatError:
        raise UsageError(f"{out} exists and is not a bundle: choose another --out") from None
    if not force:
        raise UsageError(f"{out} exists already: choose another --out, or replace it with --force")


@contextlib.contextmanager
def changed(original: Bundle) -> Iterator[Bundle]:
    """A copy of a bundle (hard links) to work on, which then takes its place: it is changed whole or not at all.

    Raises: PtuneError where somebody else changed the bundle meanwhile.
    """
    with whole_folder(original.folder) as stage:
        yield of_bundle(original, stage)
        if Bundle.open(original.folder).manifest != original.manifest:
            raise PtuneError(
                f"{original.folder} was changed meanwhile by somebody else: nothing was added, try again"
            )


def of_manifest(bundle: Bundle, model: str | None = None, trust_remote_code: bool = False) -> Backbone:
    """The backbone that a bundle was made of; `model` says where it is now.

    A bundle that came from somewhere cannot say itself that its base's code is to be trusted.
    """
    base = bundle.manifest.base
    return Backbone(
        model=model or base.source,
        quantize=base.quantize,
        dtype=base.dtype,
        revision=base.revision,
        trust_remote_code=trust_remote_code,
    )


def check_base(bundle: Bundle, found: BaseIdentity) -> None:
    """Raises: BackboneError where the reference's weights are not those that the bundle was made of."""
    base = bundle.manifest.base
    if base.hash != found.hash:
        raise BackboneError(
            f"{found.source} is not the base of {bundle.folder}: its weights hash to {found.hash[:12]}, "
            f"the bundle's to {base.hash[:12]}; say where the right one is with --backbone"
        )


def record(bundle: Bundle, proof: Proof) -> None:
    """Writes the figures into the artefact."""
    if proof.base:
        bundle.write_manifest(bundle.manifest.model_copy(update={"hops": proof.base}))
    for name, hops in proof.adapters.items():
        write_record(bundle, bundle.adapter(name).model_copy(update={"hops": hops, "parity": "measured"}))


def settle(bundle: Bundle, proof: Proof) -> None:
    """Writes the figures into the artefact. Raises: ParityError where a hop is beyond its limit."""
    record(bundle, proof)
    refuse_drift(proof)


def refuse_drift(proof: Proof) -> None:
    """Raises: ParityError that names each hop beyond its limit."""
    failed = [hop for hop in proof.hops if not hop.passed]
    if failed:
        raise ParityError(
            "; ".join(f"{hop.name}: {figures(hop)}, but the limit is {hop.limit}" for hop in failed)
        )


def figures(hop: Hop) -> str:
    """A hop's figures in one line."""
    parts = []
    if hop.max_abs_logprob is not None:
        parts.append(f"max |Δ log p| {hop.max_abs_logprob:.1e}")
    if hop.mean_kl is not None:
        parts.append(f"mean KL {hop.mean_kl:.1e}")
    if hop.top1 is not None:
        parts.append(f"top-1 {hop.top1:.1%}")
    if hop.liveness is not None:
        parts.append(f"relative L2 {hop.liveness:.1e}")
    return ", ".join([*parts, hop.note] if hop.note else parts)


_reported = ""


def report_progress(stage: str) -> None:
    """A line for each stage of the way; none for a stage that goes on."""
    global _reported
    if stage != _reported:
        _reported = stage
        say(f"  {stage}")
