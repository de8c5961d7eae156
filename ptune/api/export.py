"""ptune.export: a run, or a pretrained model, becomes a bundle that is proved to compute the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ptune.config.recipe import Backbone
from ptune.formats.bundle import Bundle
from ptune.formats.run import Run

if TYPE_CHECKING:
    from ptune.verify.proof import Proof


class ProvedBundle(Bundle):
    """A bundle with what was measured when it was made: `bundle.proof.hops`, each with its figures and its limit."""

    def __init__(self, bundle: Bundle, proof: Proof) -> None:
        super().__init__(bundle.folder, bundle.manifest)
        self.proof = proof

    def __repr__(self) -> str:
        """E.g. ProvedBundle('bundles/mine', chat, adapters: mine; 4 hops passed)."""
        hops = self.proof.hops
        fate = "passed" if self.proof.passed else "measured, not all passed"
        return f"Proved{super().__repr__().removesuffix(')')}; {len(hops)} hops {fate})"


def export(
    source: Run | Backbone | str | Path,
    out: str | Path | None = None,
    *,
    name: str | None = None,
    profiles: str | Sequence[str] = ("fp32",),
    merge: bool = False,
    force: bool = False,
    threads: int | None = None,
) -> ProvedBundle:
    """Exports a run to an ONNX bundle and proves, hop by hop, that the bundle computes what was trained.

    source: a run or its folder; or a pretrained model, as a Backbone or by its name, for a bundle without adapters.
    out: the bundle's folder; default: bundles/NAME. name: under which the adapter is served; default: the run's name.
    profiles: the graphs to write: "fp32", and beside it "int8", "int4" or "nf4" where the kind of model has them; "auto"
        measures which is the fastest that keeps its gate.
    merge: merge the adapter into the weights instead of serving it beside them.
    force: replace a bundle that exists. threads: of onnxruntime; default: all cores.

    Raises: ParityError where a hop drifts beyond its limit (nothing is left at `out`); UsageError where `out` exists;
    FormatError where the run is not finished.
    """
    from ptune import publish
    from ptune.cli.parse import cores

    named = profiles.split(",") if isinstance(profiles, str) else profiles
    asked = tuple(dict.fromkeys(name.strip() for name in named))
    threads = threads or cores()
    if not isinstance(source, Run | Backbone):
        is_run = (Path(source) / "run.json").is_file()
        source = Run.open(source) if is_run else Backbone(model=str(source))
    if isinstance(source, Run):
        name = name or source.folder.resolve().name
        out = Path("bundles") / name if out is None else Path(out)
        proof = publish.export_run(
            source, out, name=name, merge=merge, force=force, threads=threads, profiles=asked
        )
    else:
        out = Path("bundles") / (name or Path(source.model).name) if out is None else Path(out)
        proof = publish.export_backbone(source, out, force=force, threads=threads, profiles=asked)
    return ProvedBundle(Bundle.open(out), proof)
