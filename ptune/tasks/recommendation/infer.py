"""A user's history -> recommended items with reasons. Torch-free; the server uses the same functions.

`recommend` is also a method of the model that `ptune.load` returns.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from ptune.engine.onnx_graph import available_cores
from ptune.errors import RequestError
from ptune.formats.bundle import AdapterRecord, check_hash
from ptune.tasks.encoder.infer import EncoderModel
from ptune.tasks.recommendation.index import ARRAYS, RECALL, TITLES, Floats, ItemIndex
from ptune.tasks.recommendation.int8_scan import LEAST_RECALL, Int8Scan, available
from ptune.tasks.retrieval.infer import embed

_log = logging.getLogger(__name__)
REASONS = 3  # history items named as reasons for each recommendation


@dataclass(frozen=True)
class Title:
    """A thing that is known only by its title."""

    title: str


@dataclass(frozen=True)
class New:
    """An item that is not in the catalogue yet."""

    item: str
    title: str


@dataclass(frozen=True)
class RecommendQuery:
    """A request for recommendations. history: items of the catalogue, and titles of other things, in any order."""

    history: Sequence[str | Title]
    k: int = 10
    exclude: Sequence[str] = ()  # items not to recommend; history items never are
    among: Sequence[str] | None = None  # the only items to consider; None = all
    new: Sequence[New] = ()  # additional items to consider, by their titles
    weight: float | None = (
        None  # weight of items had together, 0 to 1; None = chosen in validation; 0 = titles only
    )

    @property
    def texts(self) -> list[str]:
        """The texts to embed: titles of the history, then those of the new items."""
        return [
            *(one.title for one in self.history if isinstance(one, Title)),
            *(one.title for one in self.new),
        ]


@dataclass(frozen=True)
class Reason:
    """A history item; `item` is None if it was given by its title."""

    item: str | None
    title: str
    score: float  # its nearness to the recommended item


@dataclass(frozen=True)
class Recommended:
    """A recommended item; its score is its mean nearness to the history."""

    item: str
    title: str
    score: float
    reasons: list[Reason]  # the nearest first


def recommend(model: EncoderModel, query: RecommendQuery, adapter: str) -> list[Recommended]:
    """The best items, the best first. Raises: RequestError, like `index_of` and `answer`, or for an unknown adapter."""
    record = model.engine.record(adapter)
    index = index_of(model.engine.bundle.folder, record)
    texts = query.texts
    vectors = (
        embed(model, texts, adapter, truncate=True)
        if texts
        else np.zeros((0, index.vectors.shape[1]), np.float32)
    )
    return answer(index, query, vectors)


def index_of(bundle: Path, record: AdapterRecord) -> ItemIndex:
    """An adapter's items; those of the most recently used adapters stay in memory.

    Raises: RequestError if it has none; FormatError if they are damaged.
    """
    if ARRAYS not in record.files:
        raise RequestError(
            f"{record.name!r} has no items to recommend: `ptune export` or `ptune add` a run of recommend_lora",
            param="model",
        )
    scanned = (record.embedding or {}).get(RECALL, 0.0) >= LEAST_RECALL
    digests = tuple((name, record.files.get(name, "")) for name in (ARRAYS, TITLES))
    return _opened(bundle / "adapters" / record.name, digests, scanned)


@lru_cache(maxsize=4)
def _opened(folder: Path, digests: tuple[tuple[str, str], ...], scanned: bool) -> ItemIndex:
    for name, digest in digests:
        check_hash(folder / name, digest)
    index = ItemIndex.open(folder)
    if not scanned:
        return index
    if not available():
        _log.warning(
            "%s items of %s are searched in float32, which takes longer: int8 needs pip install 'ptune[items]'",
            f"{len(index.items):,}",
            folder.name,
        )
        return index
    return replace(index, scan=Int8Scan(index.vectors, available_cores()))


def answer(index: ItemIndex, query: RecommendQuery, vectors: Floats) -> list[Recommended]:
    """vectors: [texts, width] of `query.texts`.

    Raises: RequestError if the history is empty or names an item that is not in the catalogue.
    """
    if not query.history:
        raise RequestError(
            "history is empty: name an item, or give a title", param="history", code="invalid_value"
        )
    titles = sum(isinstance(one, Title) for one in query.history)
    fresh = _fresh(index, query.new, vectors[titles:])
    known, more, named = _history(index, fresh, query, vectors[:titles])
    left_out, among = {*known}, None
    left_out |= {index.place[one] for one in query.exclude if one in index.place}
    never = {*query.exclude, *(item for item, _ in named)}
    new = [at for at, item in enumerate(fresh.items) if item not in never]
    if query.among is not None:
        for at, one in enumerate(query.among):
            if one not in fresh.place:
                _place(index, one, f"among[{at}]")
        among = [index.place[one] for one in query.among if one in index.place]
        chosen = set(query.among)
        new = [at for at in new if fresh.items[at] in chosen]
    share = index.weight if query.weight is None else query.weight
    every = np.concatenate([index.vectors[known], more])
    first = [
        (score, index.items[at], index.titles[at], index.nearness(at, known, more, share))
        for at, score in index.first(query.k, known, more, share, left_out=left_out, among=among)
    ] + [
        (score, fresh.items[at], fresh.titles[at], fresh.nearness(at, (), every, share))
        for at, score in fresh.first(query.k, (), every, share, among=new)
    ]
    first.sort(key=lambda one: -one[0])  # on ties, items of the catalogue come first
    return [Recommended(item, title, score, _reasons(near, named)) for score, item, title, near in first][
        : query.k
    ]


def _fresh(index: ItemIndex, new: Sequence[New], vectors: Floats) -> ItemIndex:
    """An index of the new items, without users. Raises: RequestError for an item that exists already."""
    fresh = ItemIndex(
        [one.item for one in new],
        [one.title for one in new],
        vectors,
        np.zeros(len(new) + 1, np.int64),
        np.zeros(0, np.int32),
        np.zeros(0, np.float32),
        0.0,
    )
    for at, one in enumerate(new):
        if one.item in index.place or fresh.place[one.item] != at:
            at = max(at, fresh.place[one.item])
            raise RequestError(
                f"new[{at}].item: {one.item!r} is there already",
                param=f"new[{at}].item",
                code="invalid_value",
            )
    return fresh


def _history(
    index: ItemIndex, fresh: ItemIndex, query: RecommendQuery, vectors: Floats
) -> tuple[list[int], Floats, list[tuple[str | None, str]]]:
    """Indices of catalogue items; vectors of everything else; and item and title of both, in that order.

    vectors: [titles, width] of the history's titles.
    """
    known, rows = [], list(vectors)
    others: list[tuple[str | None, str]] = [
        (None, one.title) for one in query.history if isinstance(one, Title)
    ]
    for at, one in enumerate(query.history):
        if isinstance(one, Title):
            continue
        if one in fresh.place:
            rows.append(fresh.vectors[fresh.place[one]])
            others.append((one, fresh.titles[fresh.place[one]]))
        else:
            known.append(_place(index, one, f"history[{at}]"))
    more = np.array(rows, np.float32).reshape(len(rows), index.vectors.shape[1])
    return known, more, [*((index.items[at], index.titles[at]) for at in known), *others]


def _reasons(near: Floats, named: Sequence[tuple[str | None, str]]) -> list[Reason]:
    first = np.argsort(-near, kind="stable")[:REASONS].tolist()
    return [Reason(named[one][0], named[one][1], float(near[one])) for one in first if near[one] > 0]


def _place(index: ItemIndex, item: str, param: str) -> int:
    """Raises: RequestError."""
    if item not in index.place:
        raise RequestError(
            f"{param}: there is no item {item[:80]!r} here; what is not in the catalogue can be given by its title in"
            " history, or in new",
            param=param,
            code="invalid_value",
        )
    return index.place[item]
