"""Who orders the passages: torch, the bundle, the base without its adapter, TF-IDF."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptune.data.labelled import LabelledRow
from ptune.evaluation.retrieval.measures import Scores
from ptune.evaluation.retrieval.queries import Queries
from ptune.progress import Progress

CANDIDATES = 20  # of each query, by TF-IDF, that a reranker orders; its right passages are always among them

Embed = Callable[[Sequence[str], Callable[[int], object]], NDArray[np.float32]]
"""Texts, and whom to tell how many are done -> [texts, width]."""
Outputs = Callable[[Sequence[tuple[str, str]], Callable[[int], object]], Sequence[Any]]
"""Pairs, likewise -> the logit of each."""


def vectors_of(name: str, queries: Queries, embed: Embed) -> tuple[NDArray[Any], NDArray[Any]]:
    """Those of the queries and of the passages."""
    texts = [*queries.queries, *queries.passages]
    with Progress(f"vectors, {name}", len(texts), unit="texts") as progress:
        found = embed(texts, progress.advance)
    return found[: len(queries.queries)], found[len(queries.queries) :]


def cosines(left: NDArray[Any], right: NDArray[Any], size: int | None = None) -> Scores:
    """[queries, passages], of the first `size` numbers."""

    def unit(vectors: NDArray[Any]) -> NDArray[np.float64]:
        short = vectors[:, :size].astype(np.float64)
        return short / np.maximum(np.linalg.norm(short, axis=1, keepdims=True), 1e-12)

    return (unit(left) @ unit(right).T).astype(np.float32)


def by_words(queries: Queries) -> Scores:
    """TF-IDF cosines: what is found without understanding anything."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(
        sublinear_tf=True, ngram_range=(3, 5), analyzer="char_wb", max_features=200_000
    )
    passages = vectorizer.fit_transform(queries.passages)
    found: Scores = (vectorizer.transform(queries.queries) @ passages.T).toarray().astype(np.float32)
    return found


def candidates(queries: Queries, scores: Scores, most: int = CANDIDATES) -> list[list[int]]:
    """What a reranker orders: the first passages, and the right ones in any case."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :most]
    return [
        [*row, *sorted(right - set(row))] for row, right in zip(order.tolist(), queries.relevant, strict=True)
    ]


def only(scores: Scores, chosen: Sequence[Sequence[int]]) -> Scores:
    """The scores of candidates; of all other passages -inf."""
    kept = np.full_like(scores, -np.inf)
    for row, places in enumerate(chosen):
        kept[row, list(places)] = scores[row, list(places)]
    return kept


def reranked(name: str, queries: Queries, chosen: Sequence[Sequence[int]], outputs: Outputs) -> Scores:
    """[queries, passages] a reranker's logits of the candidates."""
    pairs = [(row, at) for row, places in enumerate(chosen) for at in places]
    with Progress(f"scores, {name}", len(pairs), unit="pairs") as progress:
        texts = [(queries.queries[row], queries.passages[at]) for row, at in pairs]
        said = outputs(texts, progress.advance)
    scores = np.full((len(queries.queries), len(queries.passages)), -np.inf, np.float32)
    for (row, at), logits in zip(pairs, said, strict=True):
        scores[row, at] = float(np.asarray(logits).reshape(-1)[0])
    return scores


def served_outputs(folder: Path, adapter: str, threads: int | None) -> Callable[..., Any]:
    """What an adapter of a bundle says of texts or pairs."""

    def outputs(texts: Sequence[Any], tell: Callable[[int], object]) -> Any:
        from ptune.tasks.encoder.infer import load

        found: list[Any] = []
        with closing(load(folder, threads=threads)) as model:
            for start in range(0, len(texts), 128):
                found += model.logits(texts[start : start + 128], adapter)
                tell(len(texts[start : start + 128]))
        return np.stack(found)

    return outputs


def torch_pairs(predict: Callable[..., Any]) -> Outputs:
    """A run's own classifier, asked for pairs."""

    def outputs(pairs: Sequence[tuple[str, str]], tell: Callable[[int], object]) -> Sequence[Any]:
        found: Sequence[Any] = predict([LabelledRow(pair, (), "") for pair in pairs], tell)
        return found

    return outputs
