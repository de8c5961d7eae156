"""Asks a classifier: of texts, of words, of images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ptune.backbone.classifier import load_classifier
from ptune.backbone.load import published_config
from ptune.backbone.locate import locate
from ptune.codecs.sequence import SequenceCodec
from ptune.codecs.words import split
from ptune.config.classification import TextClassification
from ptune.config.recipe import Recipe
from ptune.data.images.labelled import ImageRef
from ptune.data.shapes.labelled import LabelledRow
from ptune.errors import UsageError
from ptune.evaluation.asking.question import Mark, Question, Said, Side
from ptune.formats.bundle import AdapterRecord
from ptune.formats.run import Run
from ptune.tasks.classification.predictions import predictor
from ptune.tasks.encoder.facts import Facts
from ptune.tasks.encoder.infer import entities
from ptune.tasks.encoder.predictions import Predictor, TextPredictor

NO_HEAD = "the base has no head for these labels: training made it, so that there is no answer before"


@dataclass(frozen=True)
class Labeller:
    """See `Asker`. base: None where the base knows none of the labels."""

    facts: Facts
    tuned: Predictor
    base: Predictor | None
    reads_pairs: bool

    def __call__(self, side: Side, question: Question) -> Said:
        """The labels with their probabilities, a regressor's number, or the tagged words. Raises: UsageError, DataError."""
        predict = self.base if side == "base" else self.tuned
        if predict is None:
            return Said(note=NO_HEAD)
        given = self._given(question)
        untold = (0,) * len(given) if self.facts.problem == "tags" else ()  # a label that nothing reads
        row = LabelledRow(given, untold, "the question")
        [logits] = predict([row], lambda _: None)
        if self.facts.problem == "tags":
            return self._tagged(question.text, logits)
        scores = self.facts.named.scores(np.asarray(logits))
        order = np.argsort(-scores, kind="stable").tolist()
        named = {self.facts.labels[at]: float(scores[at]) for at in order}
        return Said(scores=named, numbers=self.facts.problem == "regression")

    def _given(self, question: Question) -> Any:
        if question.image is not None:
            return ImageRef(question.image)
        if self.facts.problem == "tags":
            return tuple(question.text[begin:end] for begin, end in split(question.text))
        if not self.reads_pairs:
            return question.text
        first, line, second = question.text.partition("\n")
        if not line:
            raise UsageError("this model reads two texts: write the second one on a new line")
        return (first.strip(), second.strip())

    def _tagged(self, text: str, logits: Any) -> Said:
        record = AdapterRecord(name="asked", task=self.facts.task, labels=self.facts.labels, problem="tags")
        found = entities(text, np.asarray(logits), record)
        cut = len(split(text)) - len(logits)
        note = f"its last {cut} words are beyond what the model reads" if cut else ""
        return Said(marks=tuple(Mark(one.begin, one.end, one.label, one.score) for one in found), note=note)


def of_run(run: Run) -> Labeller:
    """Loads a run's classifier. Raises: FormatError if it has not finished; BackboneError."""
    run.finished_record()
    facts, recipe = Facts.of_run(run), Recipe.load(run.recipe_path)
    pairs = isinstance(recipe.task, TextClassification) and recipe.task.columns.text_pair is not None
    return Labeller(facts, predictor(run), _base(run, recipe, facts), pairs)


def _base(run: Run, recipe: Recipe, facts: Facts) -> Predictor | None:
    """The predictor of a base that was published with a head for the same labels."""
    if facts.preprocessing is not None:
        return None
    spec = recipe.backbone.model_copy(update={"dtype": run.record().base.dtype})
    known = published_config(spec, locate(spec.model)).id2label or {}
    if set(known.values()) != set(facts.labels):
        return None
    loaded = load_classifier(spec, "tokens" if facts.problem == "tags" else "text", facts.named)
    if loaded.fresh:
        return None
    return TextPredictor(loaded.model, SequenceCodec.open(run.codec_path), facts)
