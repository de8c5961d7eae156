"""Asks a model that compares texts: embeddings by their cosine, rerankers and reward models by their score."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np

from ptune.data.shapes.labelled import LabelledRow
from ptune.evaluation.asking.question import Question, Said, Side
from ptune.evaluation.retrieval.rankers import cosines
from ptune.formats.run import Run
from ptune.tasks.encoder.predictions import Predictor, text_predictor
from ptune.tasks.retrieval.torch_side import TorchVectors, load_embeddings
from ptune.training.layers.adapter_off import adapter_off

NO_HEAD = "the base has no head that scores: training made it, so that there is no answer before"


@dataclass(frozen=True)
class Cosines:
    """See `Asker`. Of an adapter both models are one."""

    base: TorchVectors
    tuned: TorchVectors

    def __call__(self, side: Side, question: Question) -> Said:
        """The cosine of the text with each of the others."""
        vectors = self.base if side == "base" else self.tuned
        with adapter_off(vectors.model) if side == "base" else nullcontext():
            found = vectors([question.text, *question.others])
        return _ranked(question, cosines(found[:1], found[1:])[0].tolist())


@dataclass(frozen=True)
class Scores:
    """See `Asker`. The base has nothing that scores."""

    tuned: Predictor

    def __call__(self, side: Side, question: Question) -> Said:
        """The score of each of the others as an answer to the text: a logit."""
        if side == "base":
            return Said(note=NO_HEAD)
        rows = [LabelledRow((question.text, other), (), "the question") for other in question.others]
        found = self.tuned(rows, lambda _: None)
        return _ranked(question, [float(np.asarray(one).reshape(-1)[0]) for one in found])


def _ranked(question: Question, figures: list[float]) -> Said:
    ranked = sorted(zip(question.others, figures, strict=True), key=lambda one: -one[1])
    return Said(scores=dict(ranked))


def embeddings_of_run(run: Run) -> Cosines:
    """Loads an embedding model. Raises: FormatError if the run has not finished; BackboneError."""
    run.finished_record()
    tuned = load_embeddings(run)
    return Cosines(tuned if run.has_adapter else load_embeddings(run, trained=False), tuned)


def scores_of_run(run: Run) -> Scores:
    """Loads a reranker or a reward model. Raises: FormatError if the run has not finished; BackboneError."""
    run.finished_record()
    return Scores(text_predictor(run))
