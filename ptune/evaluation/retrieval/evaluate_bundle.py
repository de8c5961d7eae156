"""Evaluates an embedding or reranking adapter on given rows; as a recommender if it has items and the rows are users'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ptune.config.columns import USUAL
from ptune.data.interactions import names_users
from ptune.evaluation.classification.onnx_side import the_adapter
from ptune.evaluation.require import Requirement
from ptune.evaluation.retrieval import evaluate, recommend
from ptune.formats.bundle import Bundle


def evaluate_bundle(
    folder: Path,
    out: Path,
    *,
    data: Sequence[Path],
    columns: Mapping[str, str] = USUAL,
    adapter: str | None = None,
    require: Sequence[Requirement] = (),
    threads: int | None = None,
) -> dict[str, Any]:
    """Dispatches to `ptune.evaluation.retrieval.evaluate` or `.recommend`."""
    record = the_adapter(Bundle.open(folder), adapter)
    recommends = "items" in (record.embedding or {}) and names_users(data[0], columns.get("user"))
    judge = recommend.evaluate_bundle if recommends else evaluate.evaluate_bundle
    return judge(
        folder, out, data=data, columns=columns, adapter=record.name, require=require, threads=threads
    )
