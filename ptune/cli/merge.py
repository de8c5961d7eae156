"""ptune merge RUN --out FOLDER"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from ptune.cli.parse import parse, say_next, shown
from ptune.cli.result import tell


def run(arguments: list[str]) -> int:
    return parse(merge, arguments, "merge")


def merge(
    run: Positional[Path],
    out: Path,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    limit: float = 1e-3,
) -> int:
    """Merges a run's adapter into its base, dequantised, and saves a plain transformers folder.

    The merged model is compared with the live adapter; a merge that loses more than the limit is refused. One that makes
    vectors opens in sentence-transformers, too.

    Args:
        run: The run's folder.
        out: Where the merged model goes.
        dtype: Type of the saved weights. float32 keeps everything.
        limit: Largest |Δ log p| between the live adapter and the merged weights that you accept.
    """
    from ptune import publish
    from ptune.formats.run import Run

    merge = publish.merge_run(Run.open(run), out, dtype, limit=limit)
    tell(model=out, parity=merge.hop, update_error=merge.update_error)
    merged, lost = publish.figures(merge.hop), merge.update_error
    if lost is None:  # an encoder, which is exported by its run alone
        print(f"merged: {merged}\nmodel: {shown(out)}")
        return 0
    print(f"merged: {merged}; the update's weights are off by {lost:.1e} (relative L2)")
    print(f"model: {shown(out)}")
    say_next(f"ptune export {shown(out)}")
    return 0
