"""Steps of publishing that all models share: places, the base of a bundle, a graph's entry, progress."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ptune.config.recipe import Backbone
from ptune.engine.adapters.folder import of_bundle
from ptune.errors import BackboneError, FormatError, PtuneError, UsageError
from ptune.formats.bundle import BaseIdentity, Bundle, CacheType, Graph, hashes
from ptune.formats.hop_log import note_stage
from ptune.formats.run import Run
from ptune.formats.whole_write import read_json, whole_folder
from ptune.progress import say

EXPORTS = {
    "manifest.json": "bundle",
    "gguf.json": "GGUF export",
    "genai.json": "export for onnxruntime-genai",
}
"""What a folder is, by the file that describes it."""


def check_place(out: Path, force: bool, record: str = "manifest.json") -> None:
    """Raises: UsageError if `out` exists and may not be replaced. record: the file by which an earlier export is known."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    what = EXPORTS[record]
    try:
        ours = "format" in read_json(out / record)  # other programs have a manifest.json, too
    except FormatError:
        ours = False
    if not ours:
        raise UsageError(f"{out} exists and is not a {what}: choose another --out")
    if not force:
        raise UsageError(f"{out} exists already: choose another --out, or replace it with --force")


@contextlib.contextmanager
def replacement(original: Bundle) -> Iterator[Bundle]:
    """Yields a copy of a bundle (hard links) to work on, which then replaces it atomically.

    Raises: PtuneError if the bundle was changed meanwhile.
    """
    with whole_folder(original.folder) as stage:
        yield of_bundle(original, stage)
        if Bundle.open(original.folder).manifest != original.manifest:
            raise PtuneError(
                f"{original.folder} was changed meanwhile by somebody else: nothing was added, try again"
            )


def refuse_rank(rank: int | None, bundle: Bundle) -> None:
    """Raises: UsageError for a kind of model whose adapters are not served at a chosen rank."""
    if rank is not None:
        raise UsageError(
            f"--rank {rank}: {bundle.folder} is not of a chat model, and only these take adapters cut to a rank; leave it out"
        )


def backbone_of(bundle: Bundle, model: str | None = None, trust_remote_code: bool = False) -> Backbone:
    """The backbone that a bundle was made of. model: where it is now.

    trust_remote_code is not read from the bundle, which may be somebody else's.
    """
    base = bundle.manifest.base
    return Backbone(
        model=model or base.source,
        quantize=base.quantize,
        dtype=base.dtype,
        revision=base.revision,
        keep_layers=base.keep_layers,
        context=base.context,
        trust_remote_code=trust_remote_code,
    )


def check_base(bundle: Bundle, loaded: BaseIdentity) -> None:
    """Raises: BackboneError if the reference's weights are not those of the bundle."""
    base = bundle.manifest.base
    if base.hash != loaded.hash:
        raise BackboneError(
            f"{loaded.source} is not the base of {bundle.folder}: its weights hash to {loaded.hash[:12]}, "
            f"the bundle's to {base.hash[:12]}; say where the right one is with --backbone"
        )


def check_runs_base(run: Run, loaded: BaseIdentity, trained_on: str) -> None:
    """Raises: BackboneError if the reference's weights do not have the hash `trained_on`."""
    if loaded.hash != trained_on:
        raise BackboneError(
            f"{loaded.source} is not the base that {run.folder} was trained on: "
            f"its weights hash to {loaded.hash[:12]}, the run's base to {trained_on[:12]}"
        )


def enter_graph(bundle: Bundle, profile: str, *, kept: float | None = None, least_tokens: int = 1) -> None:
    """Enters a profile's written files into the manifest. kept, least_tokens: as in `ptune.formats.bundle.Graph`."""
    files = hashes(bundle.folder, f"graphs/{profile}")
    _enter(bundle, Graph(profile=profile, files=files, kept=kept, least_tokens=least_tokens))


def enter_caches(bundle: Bundle, profile: str, caches: tuple[CacheType, ...]) -> None:
    """Enters the graphs of a profile that have other types of keys and values into the manifest: all that there are."""
    files = hashes(bundle.folder, f"graphs/{profile}")
    _enter(bundle, bundle.manifest.graphs[profile].model_copy(update={"files": files, "kv_caches": caches}))


def _enter(bundle: Bundle, graph: Graph) -> None:
    graphs = {**bundle.manifest.graphs, graph.profile: graph}
    bundle.write_manifest(bundle.manifest.model_copy(update={"graphs": graphs}))


def enter_golden(bundle: Bundle) -> None:
    """Enters the golden files that there are into the manifest."""
    golden = hashes(bundle.folder, "golden")
    bundle.write_manifest(bundle.manifest.model_copy(update={"golden": golden}))


_reported = ""


def report_progress(stage: str) -> None:
    """Prints a line for each stage, except a continuing one."""
    global _reported
    if stage != _reported:
        _reported = stage
        note_stage(stage)
        say(f"  {stage}")
