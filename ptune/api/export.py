"""ptune.export: turns a run or a pretrained model into a bundle that is proved to compute the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ptune.config.recipe import Backbone
from ptune.formats.bundle import Bundle, CacheType
from ptune.formats.run import Run

if TYPE_CHECKING:
    from ptune.verify.proof import Proof


class ProvedBundle(Bundle):
    """A bundle with the proof from its export: `bundle.proof.hops`, each with its figures and its limit."""

    def __init__(self, bundle: Bundle, proof: Proof) -> None:
        super().__init__(bundle.folder, bundle.manifest)
        self.proof = proof

    def __repr__(self) -> str:
        """The bundle in short: ProvedBundle('bundles/mine', chat, adapters: mine; 4 hops passed)."""
        hops = self.proof.hops
        fate = "passed" if self.proof.passed else "measured, not all passed"
        return f"Proved{super().__repr__().removesuffix(')')}; {len(hops)} hops {fate})"


def export(
    source: Run | Backbone | str | Path,
    out: str | Path | None = None,
    *,
    name: str | None = None,
    profiles: str | Sequence[str] = ("fp32",),
    kv_cache_dtype: CacheType = "float32",
    sockets: str | Sequence[str] = (),
    merge: bool = False,
    force: bool = False,
    threads: int | None = None,
    anyway: bool = False,
) -> ProvedBundle:
    """Exports a run to an ONNX bundle and proves, hop by hop, that the bundle computes the same as the trained model.

    source: a run or its folder; or a pretrained model (a Backbone or its name), for a bundle without adapters.
    out: the bundle's folder; default: bundles/NAME. name: the adapter's name in the bundle; default: the run's name.
    profiles: the graphs to write: "fp32", and also "int8", "int4" or "nf4" if the kind of model has them; "auto" measures
        which is the fastest that passes its gate.
    kv_cache_dtype: "int8" also writes graphs of a chat model whose keys and values take a quarter of the memory.
    sockets: what adapters may bring to a chat model: "head" and "embedding" (their LoRA), "tokens" (trained ones), "biases",
        "gains" (DoRA, IA3), "turns" (RoAd); what the run's own adapter brings is always among them.
    merge: merge the adapter into the weights. force: replace a bundle. threads: of onnxruntime; default: all cores.
    anyway: export a run that its evaluation found no better than a baseline.

    Raises: ParityError if a hop exceeds its limit (nothing is left at `out`); UsageError if `out` exists; FormatError if
    the run is not finished.
    """
    from ptune import publish
    from ptune.cli.parse import cores

    named = profiles.split(",") if isinstance(profiles, str) else profiles
    names = tuple(dict.fromkeys(name.strip() for name in named))
    listed = sockets.split(",") if isinstance(sockets, str) else sockets
    ends = tuple(one.strip() for one in listed if one.strip())
    threads = threads or cores()
    if not isinstance(source, Run | Backbone):
        is_run = (Path(source) / "run.json").is_file()
        source = Run.open(source) if is_run else Backbone(model=str(source))
    if isinstance(source, Run):
        name = name or source.folder.resolve().name
        out = Path("bundles") / name if out is None else Path(out)
        proof = publish.export_run(
            source,
            out,
            name=name,
            merge=merge,
            force=force,
            threads=threads,
            profiles=names,
            cache=kv_cache_dtype,
            sockets=ends,
            anyway=anyway,
        )
    else:
        out = Path("bundles") / (name or Path(source.model).name) if out is None else Path(out)
        proof = publish.export_backbone(
            source, out, force=force, threads=threads, profiles=names, cache=kv_cache_dtype, sockets=ends
        )
    return ProvedBundle(Bundle.open(out), proof)
