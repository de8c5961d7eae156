"""From a run to a bundle that may be served: written beside its place, proved there, and only then moved into it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ptune.backbone.seq2seq import is_seq2seq
from ptune.config.chat import Chat
from ptune.config.recipe import Backbone, Recipe
from ptune.errors import UsageError
from ptune.formats.bundle import FP32, INT8, AdapterRecord, Bundle
from ptune.formats.run import Run
from ptune.publish.chat import add_to_chat, export_chat_run, merge_run, verify_chat
from ptune.publish.chat import export_backbone as export_causal
from ptune.publish.encoder import add_to_encoder, export_encoder_run, merge_encoder_run, verify_encoder
from ptune.publish.seq2seq import (
    add_to_seq2seq,
    export_seq2seq_backbone,
    export_seq2seq_run,
    verify_seq2seq,
)
from ptune.publish.steps import check_place, check_profiles, figures, of_manifest, refuse_drift
from ptune.tasks.translation.facts import is_seq2seq_run
from ptune.verify.proof import Proof

__all__ = [
    "add",
    "check_profiles",
    "export_backbone",
    "export_run",
    "figures",
    "merge_encoder_run",
    "merge_run",
    "refuse_drift",
    "verify",
]


def export_run(
    run: Run,
    out: Path,
    *,
    name: str,
    merge: bool = False,
    force: bool = False,
    threads: int,
    profiles: Sequence[str] = (FP32,),
) -> Proof:
    """Exports a finished run to the bundle `out`, its adapter under `name`, and proves it.

    `profiles`: the graphs to write; "int8" may stand beside "fp32", which must be there, and "int4" of a chat model. That is
    served by the first of them unless another is asked for; its "auto" measures which is the fastest that holds its gate.
    `merge`: the adapter is merged first, into RUN/merged, and the bundle holds those weights instead of an adapter.
    A profile of a chat model that misses its gate is left out of the bundle, and stands in the proof's `refused`.
    Raises: ParityError where another hop drifts beyond its limit (nothing is left at `out`).
    """
    check_place(out, force)
    chat = isinstance(Recipe.load(run.recipe_path).task, Chat)
    check_profiles(profiles, auto=chat)
    if is_seq2seq_run(run):
        _check_one_profile(str(run.folder), profiles)
        return export_seq2seq_run(run, out, name=name, merge=merge, threads=threads)
    if chat:
        return export_chat_run(run, out, name=name, merge=merge, threads=threads, profiles=profiles)
    return export_encoder_run(run, out, name=name, merge=merge, threads=threads, int8=INT8 in profiles)


def export_backbone(
    backbone: Backbone,
    out: Path,
    *,
    force: bool = False,
    threads: int,
    profiles: Sequence[str] = (FP32,),
) -> Proof:
    """Exports a pretrained model without any adapter; `ptune add` brings adapters later."""
    if not is_seq2seq(backbone):
        return export_causal(backbone, out, force=force, threads=threads, profiles=profiles)
    check_place(out, force)
    _check_one_profile(backbone.model, profiles)
    return export_seq2seq_backbone(backbone, out, threads=threads)


def _check_one_profile(named: str, profiles: Sequence[str]) -> None:
    """Raises: UsageError where an encoder-decoder is to have another than fp32."""
    if tuple(profiles) != (FP32,):
        raise UsageError(f"{named} is of an encoder-decoder, which has one graph of each kind: {FP32}")


def add(
    folder: Path,
    adapter: Path,
    name: str,
    *,
    prove_it: bool = True,
    backbone: str | None = None,
    trust_remote_code: bool = False,
    threads: int,
) -> AdapterRecord:
    """Adds a PEFT folder that ptune need not have trained to a bundle, and proves it where the base can be loaded.

    The bundle is changed whole or not at all: the work is done on a copy (hard links), which then takes its place.
    Raises: AdapterError that lists everything which keeps it from being served; ParityError where it drifts.
    """
    original = Bundle.open(folder)
    if name in original.manifest.adapters:
        raise UsageError(f"{folder} has an adapter {name!r} already: choose another --name")
    adding = {"encoder": add_to_encoder, "seq2seq": add_to_seq2seq}
    add_to = adding.get(original.manifest.task, add_to_chat)
    return add_to(
        original,
        adapter,
        name,
        prove_it=prove_it,
        backbone=backbone,
        trust_remote_code=trust_remote_code,
        threads=threads,
    )


def verify(
    folder: Path, *, backbone: str | None = None, trust_remote_code: bool = False, threads: int
) -> Proof:
    """Measures every hop of a bundle again, on this machine, and checks every file against its hash.

    Raises: FormatError where a file is damaged; ParityError is left to the caller, who sees the whole proof.
    """
    bundle = Bundle.open(folder)
    manifest = bundle.manifest
    for files in (manifest.codec, manifest.golden, *(graph.files for graph in manifest.graphs.values())):
        bundle.check_files(files)
    for name in manifest.adapters:
        bundle.check_files(
            {f"adapters/{name}/{file}": value for file, value in bundle.adapter(name).files.items()}
        )
    spec = of_manifest(bundle, backbone, trust_remote_code)
    measuring = {"encoder": verify_encoder, "seq2seq": verify_seq2seq}
    measure = measuring.get(manifest.task, verify_chat)
    return measure(bundle, spec, threads)
