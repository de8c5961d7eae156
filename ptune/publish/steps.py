"""Steps of publishing that are the same for every model: places, the base of a bundle, a graph's entry, progress."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ptune.config.recipe import Backbone
from ptune.engine.adapters.folder import of_bundle
from ptune.errors import BackboneError, FormatError, PtuneError, UsageError
from ptune.formats.bundle import BaseIdentity, Bundle, Graph, hashes
from ptune.formats.run import Run
from ptune.formats.whole_write import read_json, whole_folder
from ptune.progress import say


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
def replacement(original: Bundle) -> Iterator[Bundle]:
    """A copy of a bundle (hard links) to work on, which then takes its place: it is changed whole or not at all.

    Raises: PtuneError where somebody else changed the bundle meanwhile.
    """
    with whole_folder(original.folder) as stage:
        yield of_bundle(original, stage)
        if Bundle.open(original.folder).manifest != original.manifest:
            raise PtuneError(
                f"{original.folder} was changed meanwhile by somebody else: nothing was added, try again"
            )


def backbone_of(bundle: Bundle, model: str | None = None, trust_remote_code: bool = False) -> Backbone:
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


def check_base(bundle: Bundle, loaded: BaseIdentity) -> None:
    """Raises: BackboneError where the reference's weights are not those that the bundle was made of."""
    base = bundle.manifest.base
    if base.hash != loaded.hash:
        raise BackboneError(
            f"{loaded.source} is not the base of {bundle.folder}: its weights hash to {loaded.hash[:12]}, "
            f"the bundle's to {base.hash[:12]}; say where the right one is with --backbone"
        )


def check_runs_base(run: Run, loaded: BaseIdentity, trained_on: str) -> None:
    """Raises: BackboneError where the reference's weights are not those with the hash `trained_on`."""
    if loaded.hash != trained_on:
        raise BackboneError(
            f"{loaded.source} is not the base that {run.folder} was trained on: "
            f"its weights hash to {loaded.hash[:12]}, the run's base to {trained_on[:12]}"
        )


def enter_graph(bundle: Bundle, profile: str, *, kept: float | None = None, least_tokens: int = 1) -> None:
    """Enters a profile whose files are written into the manifest; the rest is as `ptune.formats.bundle.Graph` has it."""
    files = hashes(bundle.folder, f"graphs/{profile}")
    graph = Graph(profile=profile, files=files, kept=kept, least_tokens=least_tokens)
    graphs = {**bundle.manifest.graphs, profile: graph}
    bundle.write_manifest(bundle.manifest.model_copy(update={"graphs": graphs}))


_reported = ""


def report_progress(stage: str) -> None:
    """A line for each stage of the way; none for a stage that goes on."""
    global _reported
    if stage != _reported:
        _reported = stage
        say(f"  {stage}")
