"""Golden vectors: the engine's outputs on the exporting machine, replayed at every start."""

from __future__ import annotations

from collections.abc import Sequence

from ptune.formats.bundle import FLOAT_CACHE, Bundle
from ptune.formats.whole_write import write_json
from ptune.publish.publishable import Publishable
from ptune.publish.steps import enter_golden, report_progress
from ptune.verify.proof import Proof


def record_golden(
    model: Publishable, bundle: Bundle, threads: int, profiles: Sequence[str] | None = None
) -> None:
    """Records golden vectors of `profiles` (default: all) and of their caches, with all current adapters."""
    report_progress("recording golden vectors")
    for profile in bundle.manifest.graphs if profiles is None else profiles:
        for cache in (FLOAT_CACHE, *bundle.manifest.graphs[profile].kv_caches):
            write_json(bundle.golden_file(profile, cache), model.golden(bundle, profile, threads, cache))
    enter_golden(bundle)


def record_served_golden(model: Publishable, bundle: Bundle, threads: int, proof: Proof) -> None:
    """Records golden vectors again where a proof, recorded already, changes what servers compute; and those of own attention.

    Those of own attention that no proof covers any more are removed.
    """
    if proof.refuses_own:
        record_golden(model, bundle, threads)
    for profile, graph in bundle.manifest.graphs.items():
        for cache in (FLOAT_CACHE, *graph.kv_caches):
            path = bundle.golden_file(profile, cache, own=True)
            content = model.own_golden(bundle, profile, threads, cache)
            if content is None:
                path.unlink(missing_ok=True)
            else:
                write_json(path, content)
    enter_golden(bundle)
