"""A proof's figures: printed, recorded in the bundle, and checked against their limits."""

from __future__ import annotations

from ptune.engine.adapters.folder import write_record
from ptune.errors import ParityError
from ptune.formats.bundle import Bundle, Hop
from ptune.verify.proof import Proof


def record_proof(bundle: Bundle, proof: Proof) -> None:
    """Writes the figures into the bundle. Raises: ParityError if a hop is beyond its limit."""
    if proof.base:
        bundle.write_manifest(bundle.manifest.model_copy(update={"hops": proof.base}))
    for name, hops in proof.adapters.items():
        write_record(bundle, bundle.adapter(name).model_copy(update={"hops": hops, "parity": "measured"}))
    refuse_drift(proof)


def refuse_drift(proof: Proof) -> None:
    """Raises: ParityError that names each hop beyond its limit, but for own operators."""
    if not proof.passed:
        raise ParityError(
            "; ".join(f"{hop.name}: {figures(hop)}, but the limit is {hop.limit}" for hop in proof.drifted)
        )


def figures(hop: Hop) -> str:
    """Formats a hop's figures in one line."""
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
