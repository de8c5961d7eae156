"""Rankers of passages: torch, the bundle, the base without its adapter, TF-IDF."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptune.data.shapes.labelled import LabelledRow
from ptune.evaluation.retrieval.measures import Scores
from ptune.evaluation.retrieval.queries import Queries
from ptune.progress import Progress

CANDIDATES = 20  # passages per query, by TF-IDF, for a reranker; the right ones are always included

Embed = Callable[[Sequence[str], Callable[[int], object]], NDArray[np.float32]]
"""Texts, and whom to tell how many are done -> [texts, width]."""
Outputs = Callable[[Sequence[tuple[str, str]], Callable[[int], object]], Sequence[Any]]
"""Pairs, likewise -> the logit of each."""


def vectors_of(name: str, queries: Queries, embed: Embed) -> tuple[NDArray[Any], NDArray[Any]]:
    """Vectors of the queries and of the passages."""
    texts = [*queries.queries, *queries.passages]
    with Progress(f"vectors, {name}", len(texts), unit="texts") as progress:
        vectors = embed(texts, progress.advance)
    return vectors[: len(queries.queries)], vectors[len(queries.queries) :]


def cosines(left: NDArray[Any], right: NDArray[Any], size: int | None = None) -> Scores:
    """Cosines [queries, passages] of the first `size` components."""

    def unit(vectors: NDArray[Any]) -> NDArray[np.float64]:
        short = vectors[:, :size].astype(np.float64)
        return short / np.maximum(np.linalg.norm(short, axis=1, keepdims=True), 1e-12)

    return (unit(left) @ unit(right).T).astype(np.float32)


def by_words(queries: Queries) -> Scores:
    """TF-IDF cosines of character n-grams."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(
        sublinear_tf=True, ngram_range=(3, 5), analyzer="char_wb", max_features=200_000
    )
    passages = vectorizer.fit_transform(queries.passages)
    scores: Scores = (vectorizer.transform(queries.queries) @ passages.T).toarray().astype(np.float32)
    return scores


def candidates(queries: Queries, scores: Scores, most: int = CANDIDATES) -> list[list[int]]:
    """Candidates for a reranker: the top passages, always including the right ones."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :most]
    return [
        [*row, *sorted(right - set(row))] for row, right in zip(order.tolist(), queries.relevant, strict=True)
    ]


def only(scores: Scores, chosen: Sequence[Sequence[int]]) -> Scores:
    """Scores with -inf for all passages but the candidates."""
    kept = np.full_like(scores, -np.inf)
    for row, places in enumerate(chosen):
        kept[row, list(places)] = scores[row, list(places)]
    return kept


def reranked(name: str, queries: Queries, chosen: Sequence[Sequence[int]], outputs: Outputs) -> Scores:
    """A reranker's logits of the candidates, [queries, passages]."""
    pairs = [(row, at) for row, places in enumerate(chosen) for at in places]
    with Progress(f"scores, {name}", len(pairs), unit="pairs") as progress:
        texts = [(queries.queries[row], queries.passages[at]) for row, at in pairs]
        answers = outputs(texts, progress.advance)
    scores = np.full((len(queries.queries), len(queries.passages)), -np.inf, np.float32)
    for (row, at), logits in zip(pairs, answers, strict=True):
        scores[row, at] = float(np.asarray(logits).reshape(-1)[0])
    return scores


def served_outputs(folder: Path, adapter: str, threads: int | None) -> Callable[..., Any]:
    """Opens a bundle's adapter as a function from texts or pairs to its outputs."""

    def outputs(texts: Sequence[Any], tell: Callable[[int], object]) -> Any:
        from ptune.tasks.encoder.infer import load

        logits: list[Any] = []
        with closing(load(folder, threads=threads)) as model:
            for start in range(0, len(texts), 128):
                logits += model.logits(texts[start : start + 128], adapter)
                tell(len(texts[start : start + 128]))
        return np.stack(logits)

    return outputs


def torch_pairs(predict: Callable[..., Any]) -> Outputs:
    """Wraps a run's own classifier to take pairs."""

    def outputs(pairs: Sequence[tuple[str, str]], tell: Callable[[int], object]) -> Sequence[Any]:
        logits: Sequence[Any] = predict([LabelledRow(pair, (), "") for pair in pairs], tell)
        return logits

    return outputs
