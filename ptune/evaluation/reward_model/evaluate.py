"""Evaluates reward models on held-out pairs of answers: how many are in order, by how much, and whether length decides."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptune.config.columns import RewardColumns
from ptune.config.recipe import Recipe
from ptune.data.shapes.rewards import RewardPair
from ptune.evaluation import binomial
from ptune.evaluation.classification.bootstrap import Counts, Values, intervals, mean
from ptune.evaluation.classification.evaluation import PREDICTIONS, Pages
from ptune.evaluation.classification.onnx_side import served_as, the_adapter
from ptune.evaluation.classification.report import report
from ptune.evaluation.classification.results import HEADLINE, Measured
from ptune.evaluation.contents import Basis, contents
from ptune.evaluation.kept_step import chosen_by
from ptune.evaluation.options import NOTHING_ASKED, EvaluationOptions
from ptune.evaluation.require import Requirement, refuse_unknown
from ptune.evaluation.retrieval.rankers import served_outputs, torch_pairs
from ptune.evaluation.reward_model.held_out import HeldPairs, pairs_of_files, pairs_of_run
from ptune.evaluation.reward_model.worst import gallery
from ptune.evaluation.training_chart import pages_of
from ptune.formats.bundle import Bundle
from ptune.formats.run import Run
from ptune.formats.task_names import TEXT_RANKING
from ptune.formats.whole_write import read_json, write_json, write_json_lines, write_text
from ptune.progress import Progress
from ptune.training.journal.card import card

FIGURES = HEADLINE["pairs"]
Rewards = NDArray[np.float64]  # [pairs, 2], the better answer's first


def evaluate_run(run: Run, asked: EvaluationOptions = NOTHING_ASKED) -> dict[str, Any]:
    """Evaluates a run on its test pairs (else its validation split, else `data`); with a bundle, ONNX beside torch.

    Writes evaluation.json, predictions.jsonl, report.html and the model card into the run.
    Raises: FormatError if the run is not finished; DataError if its data is gone or has changed; UsageError
    if a requirement names an unknown figure.
    """
    from ptune.tasks.encoder.predictions import text_predictor

    record, recipe = run.finished_record(), Recipe.load(run.recipe_path)
    refuse_unknown(asked.require, FIGURES)
    held = pairs_of_run(run, asked.data, asked.columns)
    served = served_as(run, asked.bundle, asked.adapter)
    sides = {"torch": rewards("torch", held.rows, torch_pairs(text_predictor(run)))}
    if served is not None:
        outputs = served_outputs(served.folder, served.adapter, asked.threads)
        sides["ONNX"] = rewards("ONNX", held.rows, outputs)
    evaluation = figures(held, sides, asked.require, recipe.train.seed) | chosen_by(run, held.split)
    write(run.folder, evaluation, held, sides["torch"], pages_of(run, record, recipe.name, "pairs"))
    write_text(run.card_path, card(record, recipe, read_json(run.data_path), evaluation))
    return evaluation


def evaluate_bundle(folder: Path, out: Path, asked: EvaluationOptions) -> dict[str, Any]:
    """Evaluates one adapter of a bundle on the pairs of `data`, without torch; writes into `out`.

    Raises: UsageError if the adapter has to be named; DataError if the data cannot be used.
    """
    bundle = Bundle.open(folder)
    record = the_adapter(bundle, asked.adapter)
    refuse_unknown(asked.require, FIGURES)
    held = pairs_of_files(asked.data, RewardColumns().changed(asked.columns))
    sides = {"ONNX": rewards("ONNX", held.rows, served_outputs(folder, record.name, asked.threads))}
    evaluation = figures(held, sides, asked.require, 0)
    write(out, evaluation, held, sides["ONNX"], Pages.of_adapter(bundle, record.name))
    return evaluation


def rewards(name: str, rows: Sequence[RewardPair], outputs: Callable[..., Sequence[Any]]) -> Rewards:
    """The rewards of both answers of each pair."""
    texts = [(row.anchor, answer) for row in rows for answer in row.answers]
    with Progress(f"rewards, {name}", len(texts), unit="answers") as progress:
        found = outputs(texts, progress.advance)
    return np.array([float(np.asarray(one).reshape(-1)[0]) for one in found]).reshape(-1, 2)


def measure(found: Rewards, longer: NDArray[np.bool_], shorter: NDArray[np.bool_], seed: int) -> Measured:
    """accuracy: share of pairs in order, also of those whose better answer is the longer, or the shorter; margin: by how much."""
    by = found[:, 0] - found[:, 1]

    def of(counts: Counts) -> dict[str, Values]:
        figures = {"accuracy": mean(counts, by > 0), "margin": mean(counts, by)}
        for name, which in (("accuracy_where_longer", longer), ("accuracy_where_shorter", shorter)):
            if which.any():
                with np.errstate(invalid="ignore"):
                    figures[name] = (counts @ ((by > 0) & which)) / (counts @ which).astype(np.float64)
        return figures

    point = {name: float(value[0]) for name, value in of(np.ones((1, len(by)), np.float32)).items()}
    shares = {
        "accuracy": by > 0,
        "accuracy_where_longer": (by > 0)[longer],
        "accuracy_where_shorter": (by > 0)[shorter],
    }
    exact = {name: binomial.of_rows(rows) for name, rows in shares.items() if name in point}
    return Measured(point, intervals(len(by), of, seed) | exact)


def figures(
    held: HeldPairs, sides: Mapping[str, Rewards], require: Sequence[Requirement], seed: int
) -> dict[str, Any]:
    """Returns the contents of evaluation.json. The first side's figures are the run's own; length is the baseline."""
    lengths = np.array([[len(answer) for answer in row.answers] for row in held.rows], np.float64)
    longer, shorter = lengths[:, 0] > lengths[:, 1], lengths[:, 0] < lengths[:, 1]
    measured = {name: measure(found, longer, shorter, seed) for name, found in sides.items()}
    first = next(iter(measured.values()))
    by_length = {
        name: _accuracy(which) for name, which in (("the longer one", longer), ("the shorter one", shorter))
    }
    agreement = None
    if {"torch", "ONNX"} <= set(sides):
        agreement = {"max_abs_p": _apart(sides["torch"], sides["ONNX"])}
    texts = [[row.anchor, *row.answers] for row in held.rows]
    fingerprint = hashlib.sha256(json.dumps(texts).encode()).hexdigest()
    return contents(
        Basis(TEXT_RANKING, "pairs", held.split, len(held.rows), held.files, fingerprint),
        measured,
        {name: side.figures() for name, side in by_length.items()},
        [one.checked(first.metrics) for one in require],
        agreement,
    )


def write(folder: Path, evaluation: dict[str, Any], held: HeldPairs, found: Rewards, pages: Pages) -> None:
    """Writes evaluation.json, report.html, and predictions.jsonl with the rewards of each pair."""
    lines = [
        {
            "place": row.place,
            "prompt": row.anchor,
            "chosen": row.answers[0],
            "rejected": row.answers[1],
            "rewards": [round(float(one), 6) for one in both],
        }
        for row, both in zip(held.rows, found, strict=True)
    ]
    write_json_lines(folder / PREDICTIONS, lines)
    page = report(
        pages.name,
        pages.about,
        evaluation,
        training=pages.training,
        mistakes=gallery(held.rows, found),
        origin=pages.origin,
    )
    write_text(folder / "report.html", page)
    write_json(folder / "evaluation.json", evaluation)


def _accuracy(right: NDArray[np.bool_]) -> Measured:
    return Measured({"accuracy": float(right.mean())}, {"accuracy": binomial.of_rows(right)})


def _apart(one: Rewards, other: Rewards) -> float:
    """The largest difference of what is served, the logistic function of rewards."""
    return float(np.abs(1 / (1 + np.exp(-one)) - 1 / (1 + np.exp(-other))).max())
