"""ptune mine MODEL --data FILE --out FILE"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from ptune.cli.parse import named_columns, parse, say_next, shown
from ptune.cli.result import tell
from ptune.config.columns import PairColumns
from ptune.errors import UsageError


def run(arguments: list[str]) -> int:
    columns, rest = named_columns(arguments)
    return parse(functools.partial(mine, columns=columns), rest, "mine")


def mine(
    model: Annotated[Positional[str], tyro.conf.arg(metavar="RUN|BUNDLE|BACKBONE")],
    data: tuple[Path, ...],
    out: Path,
    adapter: str | None = None,
    negatives: int = 4,
    skip: int = 0,
    margin: float = 0.95,
    threads: int | None = None,
    columns: tyro.conf.Suppress[dict[str, str] | None] = None,
) -> int:
    """Writes rows of anchor and positive with the nearest wrong passages of the same files as `negative`.

    Columns with other names are named as in a recipe: --task.columns.anchor question.

    Args:
        model: Whose vectors tell what is near: a run or a bundle of embeddings, or a pretrained encoder (mean pooling).
        data: Files with anchors and positives.
        out: The JSONL file to write.
        adapter: Of a BUNDLE: which adapter; default: the only one.
        negatives: Wrong passages of each row at most.
        skip: Leave out so many of the nearest, which may be right without anybody having said so.
        margin: Take only passages whose cosine is at most so many times that of the row's own.
        threads: Of a BUNDLE: threads of onnxruntime; default: all cores.
        columns: Of --task.columns.
    """
    from ptune.data.shapes.pairs import read_pairs
    from ptune.formats.whole_write import write_text
    from ptune.tasks.retrieval.mining import mined

    _check(out, negatives, skip, margin)
    rows = [row for file in read_pairs(data, PairColumns().changed(columns or {})) for row in file.rows]
    passages = list(dict.fromkeys(text for row in rows for text in row.passages))
    vectors = _unit(_embedder(model, adapter, threads)([*(row.anchor for row in rows), *passages]))
    found = mined(
        rows,
        vectors[: len(rows)],
        passages,
        vectors[len(rows) :],
        count=negatives,
        skip=skip,
        margin=margin,
    )
    lines = [
        json.dumps({"anchor": row.anchor, "positive": row.positive, "negative": near}, ensure_ascii=False)
        + "\n"
        for row, near in zip(rows, found, strict=True)
    ]
    write_text(out, "".join(lines))
    tell(output=out, rows=len(rows), negatives=sum(map(len, found)))
    print(f"{len(rows)} rows with {sum(map(len, found))} negatives: {shown(out)}")
    say_next(f"ptune train embed_lora --data.files {shown(out)}")
    return 0


def _check(out: Path, negatives: int, skip: int, margin: float) -> None:
    """Raises: UsageError for options that mean nothing."""
    if out.exists():
        raise UsageError(f"{out} exists already: choose another --out")
    for name, value, least in (("negatives", negatives, 1), ("skip", skip, 0)):
        if value < least:
            raise UsageError(f"--{name} must be {least} or more (is {value})")
    if not 0 < margin <= 1:
        raise UsageError(f"--margin must be over 0 and at most 1 (is {margin})")


def _embedder(model: str, adapter: str | None, threads: int | None) -> Callable[[list[str]], Any]:
    """Texts -> [texts, width]. Raises: UsageError where a run or an adapter makes no vectors; BackboneError."""
    folder = Path(model)
    if (folder / "manifest.json").is_file():
        from ptune.evaluation.classification.onnx_side import the_adapter
        from ptune.evaluation.retrieval.rankers import served_outputs
        from ptune.formats.bundle import Bundle

        record = the_adapter(Bundle.open(folder), adapter)
        _refuse_other(record.task, f"the adapter {record.name!r}")
        return lambda texts: served_outputs(folder, record.name, threads)(texts, lambda _: None)
    if adapter is not None:
        raise UsageError(f"--adapter is for bundles, and {model} is none")
    from ptune.tasks.retrieval import torch_side

    if (folder / "run.json").is_file():
        from ptune.formats.run import Run
        from ptune.tasks.encoder.facts import Facts

        opened = Run.open(folder)
        _refuse_other(Facts.of_run(opened).task, str(folder))
        return torch_side.load_embeddings(opened)
    return torch_side.pretrained(model)


def _refuse_other(task: str, named: str) -> None:
    from ptune.formats.task_names import FEATURE_EXTRACTION

    if task != FEATURE_EXTRACTION:
        raise UsageError(f"{named} makes no vectors: its task is {task}")


def _unit(vectors: Any) -> Any:
    import numpy as np

    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
