"""Golden vectors: the engine's outputs on the exporting machine, replayed at every start."""

from __future__ import annotations

from collections.abc import Sequence

from ptune.formats.bundle import Bundle, hashes
from ptune.formats.whole_write import write_json
from ptune.publish.publishable import Publishable
from ptune.publish.steps import report_progress


def record_golden(
    model: Publishable, bundle: Bundle, threads: int, profiles: Sequence[str] | None = None
) -> None:
    """Records golden vectors of `profiles` (default: every graph of the bundle), with all current adapters."""
    report_progress("recording golden vectors")
    for profile in bundle.manifest.graphs if profiles is None else profiles:
        write_json(bundle.golden_file(profile), model.golden(bundle, profile, threads))
    bundle.write_manifest(bundle.manifest.model_copy(update={"golden": hashes(bundle.folder, "golden")}))
