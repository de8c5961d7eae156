"""What a merged folder was made of: merged.json and the model card. To take the adapter out again is to go back to that base."""

from __future__ import annotations

from pathlib import Path

import yaml

from ptune.formats.parity_json import WEIGHTS
from ptune.formats.whole_write import sha256_of, write_json, write_text
from ptune.publish.publishable import FinishedRun, Merge

FORMAT = 1
RECORD = "merged.json"


def leave_origin(out: Path, run: FinishedRun, dtype: str, merge: Merge) -> None:
    """Writes the base's identity, the adapter's hash and what merging has rounded beside the merged weights."""
    base, name = run.record.base, run.files.folder.resolve().name
    digest = sha256_of(run.files.adapter_path / WEIGHTS)
    record = {
        "format": FORMAT,
        "base": base.model_dump(mode="json"),
        "adapter": {"name": name, "method": run.record.method, "sha256": digest},
        "dtype": dtype,
        "update_error": merge.update_error,
        "hop": merge.hop.model_dump(mode="json"),
    }
    write_json(out / RECORD, record)
    header = {"license": base.licence, "base_model": base.source, "tags": ["ptune", "merge"]}
    lost = (
        "" if not merge.update_error else f", whose rounding changed the update by {merge.update_error:.1e}"
    )
    write_text(
        out / "README.md",
        f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---\n# {out.name}\n\n"
        f"The adapter `{name}` ({run.record.method}, SHA-256 `{digest}`) merged into `{base.source}` by ptune, in {dtype}"
        f"{lost}.\n\nWithout the adapter it is that base: weights whose SHA-256 is `{base.hash}`"
        f" ({base.quantize}, {base.dtype}).\n",
    )
