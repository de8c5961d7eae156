"""Publishing: makes a bundle of a run; it is written to a temporary place, proved there, and only then moved into place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ptune.backbone.kind import kind_of_backbone, kind_of_run
from ptune.config.recipe import Backbone
from ptune.errors import UsageError
from ptune.evaluation.no_better import refuse_no_better
from ptune.formats.bundle import FLOAT_CACHE, FP32, AdapterRecord, Bundle, CacheType
from ptune.formats.run import Run
from ptune.kinds import DECODER, Kind, imported, of_task
from ptune.publish import pipeline
from ptune.publish.caches import check_cache
from ptune.publish.ends import end_kinds, give_ends
from ptune.publish.figures import figures, refuse_drift
from ptune.publish.merged_origin import leave_origin
from ptune.publish.onnx_adapter import as_peft_folder
from ptune.publish.profiles import check_profiles
from ptune.publish.publishable import FinishedRun, Merge, Publishable
from ptune.publish.room import check_room
from ptune.publish.served_methods import refuse_unserved
from ptune.publish.steps import backbone_of, check_place
from ptune.verify.limits import MAX_ABS_LOGPROB
from ptune.verify.proof import Proof

__all__ = [
    "add",
    "export_backbone",
    "export_run",
    "figures",
    "leave_parity",
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
    cache: CacheType = FLOAT_CACHE,
    sockets: Sequence[str] = (),
    anyway: bool = False,
) -> Proof:
    """Exports a finished run to the bundle `out`, its adapter under `name`, and proves it.

    profiles: the graphs to write: "fp32", "int8" and (chat models) "int4" in addition, and of a base in nf4 "nf4", which may
    take the place of "fp32". A chat model is served by
    the first one by default; "auto" picks the fastest that holds its gate. A profile that misses its gate is
    left out of the bundle and listed in `Proof.refused`.
    cache: "int8" gives every profile of a chat model a second graph, whose keys and values are int8.
    merge: first merges the adapter, into RUN/merged; the bundle holds those weights instead of an adapter.
    sockets: what adapters may bring at a chat model's ends (`ptune.formats.signature.EndKind`), beside what the run's own does.
    anyway: also a run that its evaluation found no better than a baseline.
    Raises: ParityError if another hop drifts beyond its limit (nothing is left at `out`).
    """
    check_place(out, force)
    finished = FinishedRun.open(run)
    if not anyway:
        refuse_no_better(run)
    kind = kind_of_run(run, finished.recipe)
    publishable = _publishable(kind)
    check_profiles(profiles, publishable, str(run.folder), kind.noun)
    check_cache(cache, publishable, str(run.folder), kind.noun)
    kinds = end_kinds(sockets, kind, str(run.folder))
    refuse_unserved(finished, kind, merge=merge)
    if kind is DECODER:
        check_room(finished.backbone(), profiles)
    model = publishable.of_run(finished, name, merge=merge, profiles=profiles)
    give_ends(model, kinds)
    return pipeline.export(model, out, threads=threads, profiles=profiles, cache=cache)


def export_backbone(
    backbone: Backbone,
    out: Path,
    *,
    force: bool = False,
    threads: int,
    profiles: Sequence[str] = (FP32,),
    cache: CacheType = FLOAT_CACHE,
    sockets: Sequence[str] = (),
) -> Proof:
    """Exports a pretrained model without adapters; `ptune add` adds them later."""
    check_place(out, force)
    kind = kind_of_backbone(backbone)
    check_profiles(profiles, _publishable(kind), backbone.model, kind.noun)
    check_cache(cache, _publishable(kind), backbone.model, kind.noun)
    kinds = end_kinds(sockets, kind, backbone.model)
    if kind is DECODER:
        check_room(backbone, profiles)
    model: Publishable = imported(kind.publishable).of_backbone(backbone)
    give_ends(model, kinds)
    return pipeline.export(model, out, threads=threads, profiles=profiles, cache=cache)


def add(
    folder: Path,
    adapter: Path,
    name: str,
    *,
    prove_it: bool = True,
    backbone: str | None = None,
    trust_remote_code: bool = False,
    threads: int,
    rank: int | None = None,
) -> AdapterRecord:
    """Adds a PEFT folder, trained by ptune or not, to a bundle and proves it; or a `.onnx_adapter`, as a PEFT folder.

    rank: to which updates are cut that are not LoRA and have no exact pair of this rank, at a loss that the record says.

    The bundle is changed atomically: the work is done on a copy (hard links), which then replaces it.
    Raises: AdapterError that lists every reason why it cannot be served; ParityError if it drifts.
    """
    if rank is not None and rank < 1:
        raise UsageError(f"--rank {rank}: a rank is 1 or more")
    original = Bundle.open(folder)
    if name in original.manifest.adapters:
        raise UsageError(f"{folder} has an adapter {name!r} already: choose another --name")
    model = _opened(original, backbone, trust_remote_code)
    with as_peft_folder(adapter) as plain:
        return pipeline.add(model, original, plain, name, prove_it=prove_it, threads=threads, rank=rank)


def verify(
    folder: Path, *, backbone: str | None = None, trust_remote_code: bool = False, threads: int
) -> Proof:
    """Measures every hop of a bundle again on this machine, and checks every file against its hash.

    Raises: FormatError if a file is damaged. A failed hop raises nothing; the caller gets the whole proof.
    """
    bundle = Bundle.open(folder)
    manifest = bundle.manifest
    for files in (
        manifest.codec,
        manifest.golden,
        manifest.vision,
        *(one.files for one in manifest.graphs.values()),
    ):
        bundle.check_files(files)
    for name in manifest.adapters:
        files = {f"adapters/{name}/{file}": digest for file, digest in bundle.adapter(name).files.items()}
        bundle.check_files(files)
    return pipeline.verify(_opened(bundle, backbone, trust_remote_code), bundle, threads)


def merge_run(run: Run, out: Path, dtype: str = "float32", *, limit: float = MAX_ABS_LOGPROB) -> Merge:
    """Merges a run's adapter into its base, dequantised, and saves a plain transformers folder with merged.json in it.

    limit: largest |Δ log p| between a chat model's live adapter and the merged weights.
    Raises: UsageError if there is nothing to merge; ParityError, and saves nothing, if the merge lost more.
    """
    if out.exists():
        raise UsageError(f"{out} exists already: choose another --out")
    if not run.has_adapter:
        raise UsageError(
            f"{run.folder} has no adapter: its trained weights are in {run.model_path} already, and `ptune export {run.folder}`"
            " makes a bundle of them"
        )
    finished = FinishedRun.open(run)
    kind = kind_of_run(run, finished.recipe)
    refuse_unserved(finished, kind, merge=True)
    merge = _publishable(kind).merge(finished, out, dtype, limit)
    leave_origin(out, finished, dtype, merge)
    return merge


def leave_parity(run: Run) -> None:
    """Writes parity.json beside a chat run's adapter, from its float32 reference. Raises: UsageError for another run."""
    finished = FinishedRun.open(run)
    kind = kind_of_run(run, finished.recipe)
    if kind is not DECODER or not run.has_adapter:
        raise UsageError(
            f"{run.folder} has no adapter of a causal language model, and no other can be held to a --url:"
            f" `ptune export {run.folder}` proves it here"
        )
    from ptune.publish.decoder_run import TrainedDecoder

    TrainedDecoder.open(finished).leave_parity()


def _publishable(kind: Kind) -> type[Publishable]:
    publishable: type[Publishable] = imported(kind.publishable)
    return publishable


def _opened(bundle: Bundle, backbone: str | None, trust_remote_code: bool) -> Publishable:
    """Opens the model that a bundle was made of. backbone: where it is now."""
    spec = backbone_of(bundle, backbone, trust_remote_code)
    return _publishable(of_task(bundle.manifest.task)).of_bundle(bundle, spec)
