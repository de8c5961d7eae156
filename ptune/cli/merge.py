"""ptune merge RUN --out FOLDER"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from ptune.cli.parse import parse, say_next, shown
from ptune.errors import UsageError


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
    from ptune.config.chat import Chat
    from ptune.config.recipe import Recipe
    from ptune.formats.run import Run
    from ptune.tasks.translation.facts import is_seq2seq_run

    opened = Run.open(run)
    if is_seq2seq_run(opened):
        raise UsageError(
            f"{run} is of an encoder-decoder, whose adapters are served beside it: ptune export {shown(run)}"
        )
    if not isinstance(Recipe.load(opened.recipe_path).task, Chat):
        if dtype != "float32":
            raise UsageError(f"--dtype {dtype} is for chat: an encoder is merged in float32")
        print(f"merged: {publish.figures(publish.merge_encoder_run(opened, out))}")
        print(f"model: {shown(out)}")
        return 0
    hop, lost = publish.merge_run(opened, out, dtype, limit=limit)
    print(f"merged: {publish.figures(hop)}; the update's weights are off by {lost:.1e} (relative L2)")
    print(f"model: {shown(out)}")
    say_next(f"ptune export {shown(out)}")
    return 0
