"""Evaluates an embedding or reranking adapter on given rows; as a recommender if it has items and the rows are users'."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ptune.config.reward_model import REWARD
from ptune.data.shapes.interactions import names_users
from ptune.evaluation.classification.onnx_side import the_adapter
from ptune.evaluation.options import EvaluationOptions
from ptune.evaluation.retrieval import evaluate, recommend
from ptune.evaluation.reward_model import evaluate as reward_model
from ptune.formats.bundle import Bundle


def evaluate_bundle(folder: Path, out: Path, asked: EvaluationOptions) -> dict[str, Any]:
    """Dispatches to `ptune.evaluation.retrieval.evaluate` or `.recommend`, or to that of reward models."""
    record = the_adapter(Bundle.open(folder), asked.adapter)
    if record.labels == (REWARD,):
        return reward_model.evaluate_bundle(folder, out, asked)
    recommends = "items" in (record.embedding or {}) and names_users(asked.data[0], asked.columns.get("user"))
    judge = recommend.evaluate_bundle if recommends else evaluate.evaluate_bundle
    return judge(folder, out, asked)
