"""Baselines for classifiers: the commonest label, and simple models of word counts or pixels.

They are fitted on the run's training rows only.
"""

from __future__ import annotations

import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptune.codecs.labels import Labels
from ptune.codecs.tag_marks import OUTSIDE
from ptune.data.shapes.labelled import LabelledRow
from ptune.errors import DataError
from ptune.evaluation.classification.outcome import Outcome, indices
from ptune.evaluation.classification.results import Measured

MOST_ROWS = 50_000  # training rows for a baseline; a random sample if there are more
MOST_IMAGES = 6_000  # likewise; fewer, as each is read from disk again
LIMIT_S = 60.0
_EDGE = 28  # pixels: grey pictures of this size
_STEPS = 25  # optimiser steps between two looks at the clock


def baselines(
    labels: Labels,
    train: Sequence[LabelledRow],
    rows: Sequence[LabelledRow],
    seed: int = 0,
    limit_s: float = LIMIT_S,
) -> dict[str, dict[str, Any]]:
    """Name -> metrics, intervals, seconds (and a note) on `rows`; empty without training rows."""
    if not train:
        return {}
    train = _some(train, MOST_ROWS, seed)
    sides = {"commonest label": _told(_commonest(labels, train, rows), 0.0, seed)}
    started_s = time.monotonic()
    if labels.problem == "tags":
        sides["look-up of words"] = _told(_looked_up(labels, train, rows), time.monotonic() - started_s, seed)
    elif isinstance(_text(rows[0]), str):
        scores, note = _words_counted(labels, train, rows, started_s + limit_s)
        if scores is not None:
            kind = "ridge regression" if labels.problem == "regression" else "logistic regression"
            outcome = Outcome(labels, rows, list(scores))
            sides[f"TF-IDF + {kind}"] = _told(outcome, time.monotonic() - started_s, seed, note)
    elif labels.problem == "single":
        some = _some(train, MOST_IMAGES, seed)  # a folder's images come label by label
        seen, note = _pixels_seen(labels, some, rows, started_s + limit_s)
        if seen is not None:
            outcome = Outcome(labels, rows, list(seen))
            sides["pixels + logistic regression"] = _told(outcome, time.monotonic() - started_s, seed, note)
    return sides


def _some(rows: Sequence[LabelledRow], most: int, seed: int) -> Sequence[LabelledRow]:
    """At most so many rows, drawn at random, in their order."""
    if len(rows) <= most:
        return rows
    chosen = np.random.default_rng(seed).choice(len(rows), most, replace=False)
    return [rows[at] for at in np.sort(chosen)]


def _told(outcome: Outcome, seconds: float, seed: int, note: str = "") -> dict[str, Any]:
    measured: Measured = outcome.measure(seed)
    return {**measured.figures(), "seconds": round(seconds, 2), **({"note": note} if note else {})}


def _commonest(labels: Labels, train: Sequence[LabelledRow], rows: Sequence[LabelledRow]) -> Outcome:
    """Predicts the same for every row: the label shares in training, the median number, or O for every word."""
    if labels.problem == "regression":
        same = np.median([[row.label] for row in train], axis=0).astype(np.float32)
        return Outcome(labels, rows, [same] * len(rows))
    if labels.problem == "tags":
        return _tagged(labels, rows, {})
    single = labels.problem == "single"
    counted = Counter(label for row in train for label in ((row.label,) if single else indices(row)))
    shares = np.array([counted[at] / len(train) for at in range(len(labels))], np.float32)
    return Outcome(labels, rows, [shares] * len(rows))


def _looked_up(labels: Labels, train: Sequence[LabelledRow], rows: Sequence[LabelledRow]) -> Outcome:
    """Gives every word its commonest tag in training; O for unknown words."""
    seen = defaultdict[str, Counter[int]](Counter)
    for row in train:
        for word, tag in zip(row.input, indices(row), strict=True):
            seen[word][tag] += 1
    return _tagged(labels, rows, {word: tags.most_common(1)[0][0] for word, tags in seen.items()})


def _tagged(labels: Labels, rows: Sequence[LabelledRow], tag_of: dict[str, int]) -> Outcome:
    outside = labels.names.index(OUTSIDE) if OUTSIDE in labels.names else 0
    sure = np.eye(len(labels), dtype=np.float32)
    return Outcome(labels, rows, [sure[[tag_of.get(word, outside) for word in row.input]] for row in rows])


def _words_counted(
    labels: Labels, train: Sequence[LabelledRow], rows: Sequence[LabelledRow], until_s: float
) -> tuple[NDArray[Any] | None, str]:
    """Scores of a linear model on TF-IDF of words and word pairs; None if training holds one label or no word."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import Ridge

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2 if len(train) > 100 else 1)
    try:
        train_features = vectorizer.fit_transform([_text(row) for row in train])
    except ValueError:
        return None, ""  # no word occurs often enough
    features = vectorizer.transform([_text(row) for row in rows])
    if labels.problem == "regression":
        model = Ridge().fit(train_features, np.array([row.label for row in train]))
        return model.predict(features).reshape(-1, 1), ""
    if labels.problem == "single":
        gold = np.array([row.label for row in train])
        if len(set(gold.tolist())) < 2:
            return None, ""
        model, note = _within(train_features, gold, until_s)
        scores = np.zeros((len(rows), len(labels)))
        scores[:, model.classes_] = model.predict_proba(features)
        return scores, note
    return _each_label(labels, train_features, train, features, until_s)


def _each_label(
    labels: Labels, train_features: Any, train: Sequence[LabelledRow], features: Any, until_s: float
) -> tuple[NDArray[Any], str]:
    """Fits one yes-or-no model per label."""
    scores, notes = np.zeros((features.shape[0], len(labels))), ""
    for at in range(len(labels)):
        gold = np.array([at in indices(row) for row in train])
        if gold.all() or not gold.any():
            scores[:, at] = gold[0]
            continue
        model, note = _within(train_features, gold, until_s)
        scores[:, at], notes = model.predict_proba(features)[:, 1], notes or note
    return scores, notes


def _pixels_seen(
    labels: Labels, train: Sequence[LabelledRow], rows: Sequence[LabelledRow], until_s: float
) -> tuple[NDArray[Any] | None, str]:
    """Scores of logistic regression on small grey images; None if there is one label or reading takes too long."""
    gold, images = np.array([row.label for row in train]), []
    if len(set(gold.tolist())) < 2:
        return None, ""
    for row in (*train, *rows):
        try:
            images.append(_grey(row.input))
        except DataError:
            return None, ""  # the file is gone since training
        if time.monotonic() > until_s:
            return None, ""
    pixels = np.stack(images)
    model, note = _within(pixels[: len(train)], gold, until_s)
    scores = np.zeros((len(rows), len(labels)))
    scores[:, model.classes_] = model.predict_proba(pixels[len(train) :])
    return scores, note


def _grey(image: Any) -> NDArray[np.float32]:
    """Returns [pixels] from 0 to 1."""
    small = image.open().convert("L").resize((_EDGE, _EDGE))
    return np.asarray(small, np.float32).reshape(-1) / np.float32(255)


def _within(features: Any, gold: NDArray[Any], until_s: float) -> tuple[Any, str]:
    """Fits logistic regression with scikit-learn's defaults until it converges or time is up; with a note if it is."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    model = LogisticRegression(max_iter=_STEPS, warm_start=True)
    # On vectors this small, BLAS threads mostly wait for each other: ten times slower on busy cores.
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)
        while True:
            model.fit(features, gold)
            if max(model.n_iter_) < _STEPS:
                return model, ""
            if time.monotonic() > until_s:
                return model, "stopped by its time limit before it had converged"


def _text(row: LabelledRow) -> Any:
    """The text of a row, a pair joined into one text; any other input unchanged."""
    return "\n".join(row.input) if isinstance(row.input, tuple) else row.input
