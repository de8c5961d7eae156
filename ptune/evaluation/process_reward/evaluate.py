"""Evaluates process reward models on held-out answers, whose steps are known to be right or wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptune.config.process_reward import ProcessReward
from ptune.config.recipe import Recipe
from ptune.data.held_out import Held
from ptune.data.shapes.labelled import LabelledRow
from ptune.evaluation.classification.evaluation import PREDICTIONS, Pages
from ptune.evaluation.classification.held_out import of_bundle, of_run
from ptune.evaluation.classification.onnx_side import Served, served_as, the_adapter
from ptune.evaluation.classification.outcome import Predictor, indices
from ptune.evaluation.classification.report import report
from ptune.evaluation.classification.results import HEADLINE, Measured
from ptune.evaluation.contents import Basis, contents
from ptune.evaluation.kept_step import chosen_by
from ptune.evaluation.options import NOTHING_ASKED, EvaluationOptions
from ptune.evaluation.process_reward.measures import measure
from ptune.evaluation.process_reward.worst import gallery
from ptune.evaluation.require import Requirement, refuse_unknown
from ptune.evaluation.training_chart import pages_of
from ptune.formats.bundle import Bundle
from ptune.formats.run import Run
from ptune.formats.whole_write import read_json, write_json, write_json_lines, write_text
from ptune.progress import Progress
from ptune.training.journal.card import card

FIGURES = HEADLINE["steps"]
_LABELS = ProcessReward.labels


@dataclass(frozen=True)
class Judgement:
    """What one side says about the steps of each row. right: how likely each is right, [steps] without those cut off."""

    rows: Sequence[LabelledRow]
    right: list[NDArray[np.float32]]

    @property
    def said(self) -> list[list[str | None]]:
        """The likelier label of each step; None of one that was cut off."""
        return [
            [*(_LABELS[int(one > 0.5)] for one in right), *[None] * (len(indices(row)) - len(right))]
            for row, right in zip(self.rows, self.right, strict=True)
        ]


def evaluate_run(run: Run, asked: EvaluationOptions = NOTHING_ASKED) -> dict[str, Any]:
    """Evaluates a run on its test rows (else its validation split, else `data`); with a bundle, ONNX beside torch.

    Writes evaluation.json, predictions.jsonl, report.html and the model card into the run.
    Raises: FormatError if the run is not finished; DataError if its data is gone or has changed; UsageError
    if a requirement names an unknown figure.
    """
    from ptune.tasks.encoder.predictions import text_predictor

    record, recipe = run.finished_record(), Recipe.load(run.recipe_path)
    refuse_unknown(asked.require, FIGURES)
    held = of_run(run, asked.data, asked.columns)
    served = served_as(run, asked.bundle, asked.adapter)
    sides = {"torch": judgement("torch", held, text_predictor(run))}
    if served is not None:
        sides["ONNX"] = judgement("ONNX", held, lambda rows, tell: served.logits(rows, tell, asked.threads))
    evaluation = figures(held, sides, asked.require, recipe.train.seed) | chosen_by(run, held.split)
    write(run.folder, evaluation, held, sides["torch"], pages_of(run, record, recipe.name))
    write_text(run.card_path, card(record, recipe, read_json(run.data_path), evaluation))
    return evaluation


def evaluate_bundle(folder: Path, out: Path, asked: EvaluationOptions) -> dict[str, Any]:
    """Evaluates one adapter of a bundle on the rows of `data`, without torch; writes into `out`.

    Raises: UsageError if the adapter has to be named; DataError if the data cannot be used.
    """
    bundle = Bundle.open(folder)
    record = the_adapter(bundle, asked.adapter)
    refuse_unknown(asked.require, FIGURES)
    held, served = of_bundle(record, asked.data, asked.columns), Served(folder, record.name)
    sides = {"ONNX": judgement("ONNX", held, lambda rows, tell: served.logits(rows, tell, asked.threads))}
    evaluation = figures(held, sides, asked.require, 0)
    write(out, evaluation, held, sides["ONNX"], Pages.of_adapter(bundle, record.name))
    return evaluation


def judgement(name: str, held: Held, predict: Predictor) -> Judgement:
    """What a side says about all rows."""
    with Progress(f"steps, {name}", len(held.rows), unit="rows") as progress:
        logits = predict(held.rows, progress.advance)
    return Judgement(held.rows, [held.labels.scores(np.asarray(one))[:, 1] for one in logits])


def figures(
    held: Held, sides: Mapping[str, Judgement], require: Sequence[Requirement], seed: int
) -> dict[str, Any]:
    """Returns the contents of evaluation.json. The first side's figures are the run's own."""
    gold = _gold(held.rows)
    measured = {name: measure(gold, side.said, seed) for name, side in sides.items()}
    first, own = next(iter(measured.values())), next(iter(sides.values()))
    agreement = None
    if {"torch", "ONNX"} <= set(sides):
        pairs = zip(sides["torch"].right, sides["ONNX"].right, strict=True)
        agreement = {"max_abs_p": max(float(np.abs(a - b).max(initial=0)) for a, b in pairs)}
    counts = {
        "steps": sum(map(len, gold)),
        "cut_off_steps": sum(verdict is None for row in own.said for verdict in row),
    }
    basis = Basis(
        held.task,
        "steps",
        held.split,
        len(held.rows),
        held.files,
        held.fingerprint,
        held.labels.names,
        counts,
    )
    baselines = {name: side.figures() for name, side in _commonest(held, gold, seed).items()}
    return contents(basis, measured, baselines, [one.checked(first.metrics) for one in require], agreement)


def write(folder: Path, evaluation: dict[str, Any], held: Held, own: Judgement, pages: Pages) -> None:
    """Writes evaluation.json, report.html, and predictions.jsonl with the verdict on each step."""
    gold, said = _gold(held.rows), own.said
    lines = [
        {
            "place": row.place,
            "prompt": row.input[0],
            "steps": list(row.input[1:]),
            "gold": one,
            "predicted": other,
            "right": [round(float(score), 6) for score in right],
        }
        for row, one, other, right in zip(held.rows, gold, said, own.right, strict=True)
    ]
    write_json_lines(folder / PREDICTIONS, lines)
    mistakes = gallery(held.rows, gold, said)
    page = report(
        pages.name, pages.about, evaluation, training=pages.training, mistakes=mistakes, origin=pages.origin
    )
    write_text(folder / "report.html", page)
    write_json(folder / "evaluation.json", evaluation)


def _gold(rows: Sequence[LabelledRow]) -> list[list[str]]:
    return [[_LABELS[at] for at in indices(row)] for row in rows]


def _commonest(held: Held, gold: Sequence[Sequence[str]], seed: int) -> dict[str, Measured]:
    """What the commonest label of the training steps would reach; nothing where they are not known."""
    counts = Counter(label for row in _gold(held.train) for label in row)
    if not counts:
        return {}
    label = max(_LABELS, key=counts.__getitem__)
    return {f"every step is {label}": measure(gold, [[label] * len(row) for row in gold], seed)}
