"""What somebody had -> what comes next, with reasons. Torch-free; the server uses the same pieces.

model = ptune.load("bundles/recommend_lora")
recommend(model, Question(history=["libgtk-3-0t64"]), "recommend_lora")
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from ptune.errors import RequestError
from ptune.formats.bundle import AdapterRecord, check_hash
from ptune.tasks.classification.infer import EncoderModel
from ptune.tasks.recommendation.index import ARRAYS, Floats, ItemIndex, best
from ptune.tasks.retrieval.infer import embed

REASONS = 3  # items of the history that are named for each recommendation


@dataclass(frozen=True)
class Title:
    """A thing that is known by its title alone."""

    title: str


@dataclass(frozen=True)
class New:
    """An item that is not in the catalogue yet."""

    item: str
    title: str


@dataclass(frozen=True)
class Question:
    """history: items of the catalogue, and titles of other things, in any order."""

    history: Sequence[str | Title]
    k: int = 10
    exclude: Sequence[str] = ()  # items that are not to come; those of the history never do
    among: Sequence[str] | None = None  # the only items that may come; None = all
    new: Sequence[New] = ()  # items that may come, too, by their titles
    weight: float | None = (
        None  # of what is had together, 0 to 1; None = as validation chose; 0: titles alone
    )

    @property
    def texts(self) -> list[str]:
        """What needs a vector: titles of the history, then those of the new items."""
        return [
            *(one.title for one in self.history if isinstance(one, Title)),
            *(one.title for one in self.new),
        ]


@dataclass(frozen=True)
class Reason:
    """Something of the history; `item` is None where it was given by its title."""

    item: str | None
    title: str
    score: float  # how near it is


@dataclass(frozen=True)
class Recommended:
    """An item; its score is the mean of how near it is to all of the history."""

    item: str
    title: str
    score: float
    reasons: list[Reason]  # the nearest first


def recommend(model: EncoderModel, question: Question, adapter: str) -> list[Recommended]:
    """The best items, the best first. Raises: RequestError as `index_of` and `answer`, or for an unknown adapter."""
    record = model.engine.record(adapter)
    index = index_of(model.engine.bundle.folder, record)
    texts = question.texts
    vectors = embed(model, texts, adapter) if texts else np.zeros((0, index.vectors.shape[1]), np.float32)
    return answer(index, question, vectors)


def index_of(bundle: Path, record: AdapterRecord) -> ItemIndex:
    """An adapter's items; those of the adapters that were asked last stay in memory.

    Raises: RequestError where it has none; FormatError where they are damaged.
    """
    digest = record.files.get(ARRAYS)
    if digest is None:
        raise RequestError(
            f"{record.name!r} has no items to recommend: `ptune export` or `ptune add` a run of recommend_lora",
            param="model",
        )
    return _opened(bundle / "adapters" / record.name, digest)


@lru_cache(maxsize=4)
def _opened(folder: Path, digest: str) -> ItemIndex:
    check_hash(folder / ARRAYS, digest)
    return ItemIndex.open(folder)


def answer(index: ItemIndex, question: Question, vectors: Floats) -> list[Recommended]:
    """vectors: [texts, width] of `question.texts`.

    Raises: RequestError where the history is empty or names an item that is not in the catalogue.
    """
    if not question.history:
        raise RequestError(
            "history is empty: name an item, or give a title", param="history", code="invalid_value"
        )
    titles = [one.title for one in question.history if isinstance(one, Title)]
    index = _with_new(index, question.new, vectors[len(titles) :])
    known = [
        _place(index, one, f"history[{at}]")
        for at, one in enumerate(question.history)
        if isinstance(one, str)
    ]
    more = vectors[: len(titles)]
    scores = index.scores(known, more, question.weight)
    left_out = {*known, *(index.place[one] for one in question.exclude if one in index.place)}
    if question.among is not None:
        kept = {_place(index, one, f"among[{at}]") for at, one in enumerate(question.among)}
        left_out |= set(range(len(index.items))) - kept
    named: list[tuple[str | None, str]] = [
        *((index.items[at], index.titles[at]) for at in known),
        *((None, title) for title in titles),
    ]
    found = []
    for at in best(scores, left_out, question.k):
        near = index.nearness(at, known, more, question.weight)
        first = np.argsort(-near, kind="stable")[:REASONS].tolist()
        reasons = [Reason(named[one][0], named[one][1], float(near[one])) for one in first if near[one] > 0]
        found.append(Recommended(index.items[at], index.titles[at], float(scores[at]), reasons))
    return found


def _with_new(index: ItemIndex, new: Sequence[New], vectors: Floats) -> ItemIndex:
    """The index with more items, of which nobody is known to have any. Raises: RequestError for one that it has."""
    if not new:
        return index
    for at, one in enumerate(new):
        if one.item in index.place or one.item in {other.item for other in new[:at]}:
            raise RequestError(
                f"new[{at}].item: {one.item!r} is there already",
                param=f"new[{at}].item",
                code="invalid_value",
            )
    return replace(
        index,
        items=[*index.items, *(one.item for one in new)],
        titles=[*index.titles, *(one.title for one in new)],
        vectors=np.concatenate([index.vectors, vectors]),
        starts=np.concatenate([index.starts, np.repeat(index.starts[-1:], len(new))]),
    )


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
