"""Writes evaluation.json, predictions.jsonl and report.html from the predictions of one or two sides. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptune.data.held_out import Held
from ptune.data.images.labelled import ImageRef
from ptune.evaluation.classification.agreement import agreement
from ptune.evaluation.classification.baselines import baselines
from ptune.evaluation.classification.gallery import gallery
from ptune.evaluation.classification.outcome import Outcome, Predictor
from ptune.evaluation.classification.report import report
from ptune.evaluation.classification.results import Measured
from ptune.evaluation.classification.slices import slices
from ptune.evaluation.classification.tags import confusion
from ptune.evaluation.contents import Basis, contents
from ptune.evaluation.require import Requirement
from ptune.formats.bundle import Bundle
from ptune.formats.whole_write import write_json, write_json_lines, write_text
from ptune.progress import Progress

PREDICTIONS = "predictions.jsonl"


@dataclass(frozen=True)
class Pages:
    """The parts of the report that need the run or the bundle, as HTML."""

    name: str
    about: str
    training: str = ""
    origin: str = ""

    @classmethod
    def of_adapter(cls, bundle: Bundle, name: str, what: str = "adapter") -> Pages:
        """The pages of an adapter in a bundle, without its run. what: the thing that is evaluated."""
        manifest = bundle.manifest
        place = f"{what} {name} of {bundle.folder}"
        return cls(name, f"{place}, {manifest.base.source}, profile {manifest.default_profile}")


def figures(
    held: Held, sides: Mapping[str, Outcome], require: Sequence[Requirement], seed: int
) -> dict[str, Any]:
    """Returns the contents of evaluation.json. The first side's figures are the run's own."""
    measured = {name: outcome.measure(seed) for name, outcome in sides.items()}
    (first, *_), (own, *others) = measured.values(), sides.values()
    basis = Basis(
        held.task,
        held.labels.problem,
        held.split,
        len(held.rows),
        held.files,
        held.fingerprint,
        held.labels.names,
        {"cut_off_words": own.cut_off} if held.labels.problem == "tags" else {},
    )
    return contents(
        basis,
        measured,
        baselines(held.labels, held.train, held.rows, seed),
        [one.checked(named(first)) for one in require],
        agreement(own, others[0]) if others else None,
        details={**first.details, **_type_confusion(own)},
        slices=[one.described() for one in slices(own, seed)],
    )


def named(measured: Measured) -> dict[str, float]:
    """All figures by the names that --require takes; a label's as f1/LABEL."""
    each = {
        f"{name}/{label}": value for label, line in measured.classes.items() for name, value in line.items()
    }
    return {**measured.metrics, **each}


def predictions(outcome: Outcome) -> Iterator[dict[str, Any]]:
    """Yields the lines of predictions.jsonl; `scores` in the order of the labels; for tags, one per word.

    image: of images, where it lies, its place in an array, and the hash of its bytes or pixels.
    """
    for at, row in enumerate(outcome.rows):
        scores = outcome.scores[at].max(axis=-1) if outcome.labels.problem == "tags" else outcome.scores[at]
        yield {
            "place": row.place,
            "gold": outcome.gold[at],
            "predicted": outcome.predicted[at],
            "scores": [round(float(score), 6) for score in scores],
            "columns": dict(row.columns),
            **_image(row.input),
        }


def _image(given: Any) -> dict[str, Any]:
    if not isinstance(given, ImageRef):
        return {}
    return {"image": {"path": str(given.path), "index": given.index, "sha256": given.sha256}}


def outcome_of(name: str, held: Held, predict: Predictor) -> Outcome:
    """Computes a side's predictions for all rows."""
    with Progress(f"predictions, {name}", len(held.rows), unit="rows") as progress:
        logits: list[NDArray[Any]] = predict(held.rows, progress.advance)
    return Outcome.of_logits(held.labels, held.rows, [np.asarray(one) for one in logits])


def _type_confusion(outcome: Outcome) -> dict[str, Any]:
    """For tags: the confusion of types, counted in words, O first."""
    if outcome.labels.problem != "tags":
        return {}
    pairs = confusion(outcome.gold, outcome.predicted)
    types = sorted({name for pair in pairs for name in pair}, key=lambda name: (name != "O", name))
    return {
        "confusion_labels": types,
        "confusion": [[pairs.get((gold, said), 0) for said in types] for gold in types],
    }


def write(folder: Path, evaluation: dict[str, Any], sides: Mapping[str, Outcome], pages: Pages) -> None:
    """Writes the three files, evaluation.json last."""
    own = next(iter(sides.values()))
    write_json_lines(folder / PREDICTIONS, predictions(own), default=str)
    mistakes = gallery(own)
    page = report(
        pages.name, pages.about, evaluation, training=pages.training, mistakes=mistakes, origin=pages.origin
    )
    write_text(folder / "report.html", page)
    write_json(folder / "evaluation.json", evaluation)
