"""The items of an adapter: titles, vectors, and how often users had two of them together. Uses numpy; no torch, no pickle.

The nearness of two items is (1 - weight) * cosine of their titles' vectors + weight * cosine of their users (item-kNN:
Sarwar et al. 2001). An item's score for a user is its mean nearness to the user's history.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ptune.errors import FormatError
from ptune.formats.whole_write import read_json_lines, whole_file, write_json_lines
from ptune.tasks.recommendation.int8_scan import Int8Scan, kept

ARRAYS, TITLES = "items.npz", "items.jsonl"
"""Files beside PEFT's in an adapter's folder."""
RECALL = "int8_recall@10"
"""Key in a record's `embedding`: the share of the first ten that an int8 scan found, if there are many items."""
Floats = npt.NDArray[np.float32]
_GROUP = 64  # neighbouring scores whose best is checked first
_MOST_FOUND = 1000  # most items to rank that contain the words
_PARTS = {"vectors": 2, "starts": 1, "columns": 1, "values": 1, "weight": 0}


@dataclass(frozen=True, eq=False)
class ItemIndex:
    """vectors [items, width] of length 1; items had together with item i: columns[starts[i]:starts[i + 1]], their cosines: values."""

    items: Sequence[str]
    titles: Sequence[str]
    vectors: Floats
    starts: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int32]
    values: Floats
    weight: float  # of what is had together, 0 to 1; the rest is the titles'
    scan: Int8Scan | None = None  # finds what may come first, where there are many items; not saved

    @cached_property
    def place(self) -> dict[str, int]:
        """item -> its number."""
        return {item: at for at, item in enumerate(self.items)}

    @cached_property
    def _words(self) -> list[str]:
        """The text of each item for the search by words."""
        return [f"{title}\n{item}".casefold() for item, title in zip(self.items, self.titles, strict=True)]

    def find(self, words: str, count: int) -> list[int]:
        """Items whose title or name contains the words; first those whose title begins with them."""
        wanted = " ".join(words.casefold().split())
        holding = (at for at, said in enumerate(self._words) if wanted in said)
        matching = sorted(islice(holding, _MOST_FOUND), key=lambda at: not self._words[at].startswith(wanted))
        return matching[:count]

    def scores(
        self, history: Sequence[int], more: Floats | None = None, weight: float | None = None
    ) -> Floats:
        """Scores [items] for a user's history. more: vectors [others, width] of things outside the catalogue."""
        wanted, share = self._wanted(history, more, weight)
        return self._with_users(self.vectors @ wanted, history, share)

    def first(
        self,
        count: int,
        history: Sequence[int],
        more: Floats | None = None,
        weight: float | None = None,
        *,
        left_out: Iterable[int] = (),
        among: Iterable[int] | None = None,
    ) -> list[tuple[int, float]]:
        """Up to `count` items with their scores, the best first; ties in order of the catalogue.

        left_out: items to exclude; among: the only items to consider.
        """
        wanted, share = self._wanted(history, more, weight)
        products = self.vectors @ wanted if self.scan is None else self.scan.products(wanted)
        scores = self._with_users(products, history, share)
        if among is not None:
            only, may = np.full_like(scores, -np.inf), list(among)
            only[may] = scores[may]
            scores = only
        if self.scan is None:
            return [(at, float(scores[at])) for at in best(scores, left_out, count)]
        near = np.sort(np.array(best(scores, left_out, kept(count)), np.int64))
        exact = self._with_users(self.vectors[near] @ wanted, history, share, near)
        return [(int(near[at]), float(exact[at])) for at in best(exact, (), count)]

    def _wanted(
        self, history: Sequence[int], more: Floats | None, weight: float | None
    ) -> tuple[Floats, float]:
        """The vector [width] that items are compared with, and the weight of a shared user of each history item."""
        share = self.weight if weight is None else weight
        vectors = self.vectors[list(history)]
        if more is not None:
            vectors = np.concatenate([vectors, more])
        count = max(len(vectors), 1)
        return vectors.sum(0) * np.float32((1 - share) / count), share / count

    def _with_users(
        self, scores: Floats, history: Sequence[int], share: float, items: npt.NDArray[Any] | None = None
    ) -> Floats:
        """Adds the scores of items had together, in place. items: of the scores, in ascending order; None = all."""
        for at in history if share else ():
            row = slice(self.starts[at], self.starts[at + 1])
            columns: npt.NDArray[Any] = self.columns[row]
            values = self.values[row]
            if items is not None:
                _, columns, there = np.intersect1d(items, columns, return_indices=True)
                values = values[there]
            scores[columns] += values * np.float32(share)
        return scores

    def nearness(
        self, at: int, history: Sequence[int], more: Floats | None = None, weight: float | None = None
    ) -> Floats:
        """Nearness [history and others] of item `at` to each; its score is their mean."""
        share = self.weight if weight is None else weight
        vectors = (
            self.vectors[list(history)]
            if more is None
            else np.concatenate([self.vectors[list(history)], more])
        )
        near: Floats = (vectors @ self.vectors[at]) * np.float32(1 - share)
        row = slice(self.starts[at], self.starts[at + 1])
        together = dict(zip(self.columns[row].tolist(), self.values[row].tolist(), strict=True))
        for number, one in enumerate(history):
            near[number] += share * together.get(one, 0.0)
        return near

    def save(self, folder: Path) -> None:
        """Writes items.jsonl and items.npz."""
        pairs = zip(self.items, self.titles, strict=True)
        write_json_lines(folder / TITLES, ({"item": item, "title": title} for item, title in pairs))
        arrays: dict[str, Any] = {name: np.asarray(getattr(self, name)) for name in _PARTS}
        with whole_file(folder / ARRAYS) as part, part.open("wb") as file:
            np.savez(file, **arrays)  # the dates of its members are fixed

    @classmethod
    def open(cls, folder: Path) -> ItemIndex:
        """Reads the files written by `save`. Raises: FormatError if one is missing, damaged, or does not match the other."""
        try:
            rows = read_json_lines(folder / TITLES)
            items, titles = ([str(row[name]) for row in rows] for name in ("item", "title"))
            parts = _arrays(folder / ARRAYS)
            index = cls(
                items,
                titles,
                **{name: parts[name] for name in _PARTS if name != "weight"},
                weight=float(parts["weight"]),
            )
            index._check()
            return index
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise FormatError(f"the items in {folder} cannot be used: {error}") from None

    def _check(self) -> None:
        """Raises: ValueError if the parts do not fit together."""
        count = len(self.items)
        fits = (
            count > 0
            and len(self.place) == count
            and self.vectors.shape[0] == count
            and self.starts.shape == (count + 1,)
            and self.starts[0] == 0
            and bool((np.diff(self.starts) >= 0).all())
            and self.columns.shape == self.values.shape == (self.starts[-1],)
            and (not len(self.columns) or 0 <= int(self.columns.min()) <= int(self.columns.max()) < count)
            and bool(np.isfinite(self.vectors).all() and np.isfinite(self.values).all())
            and 0 <= self.weight <= 1
        )
        if not fits:
            raise ValueError(f"{ARRAYS} and the {count} items of {TITLES} do not fit together")


def _arrays(path: Path) -> dict[str, Any]:
    """The arrays of items.npz. Raises: ValueError if the file would unpack to more than its size, or holds other arrays."""
    with zipfile.ZipFile(path) as file:
        if any(member.compress_type != zipfile.ZIP_STORED for member in file.infolist()):
            raise ValueError(f"{path.name} is compressed")
    kinds = {"starts": np.int64, "columns": np.int32}
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in _PARTS}
    for name, dimensions in _PARTS.items():
        if arrays[name].ndim != dimensions or arrays[name].dtype.kind not in "fi":
            raise ValueError(f"{path.name}: {name} is {arrays[name].dtype} of {arrays[name].shape}")
    return {name: array.astype(kinds.get(name, np.float32), copy=False) for name, array in arrays.items()}


def together(
    histories: Iterable[Sequence[int]], items: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], Floats]:
    """starts, columns and values of the cosines between items by their users: shared users / sqrt(users of each)."""
    users = np.zeros(items, np.int64)
    rows, columns = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for history in histories:
        had = np.unique(np.asarray(history, np.int64))
        users[had] += 1
        rows.append(np.repeat(had, len(had)))
        columns.append(np.tile(had, len(had)))
    pairs, counts = np.unique(np.concatenate(rows) * items + np.concatenate(columns), return_counts=True)
    one, other = pairs // items, pairs % items
    apart = one != other
    one, other, counts = one[apart], other[apart], counts[apart]
    values = (counts / np.sqrt(users[one] * users[other])).astype(np.float32)
    starts = np.searchsorted(one, np.arange(items + 1)).astype(np.int64)
    return starts, other.astype(np.int32), values


def best(scores: Floats, left_out: Iterable[int], count: int) -> list[int]:
    """The items with the highest scores except `left_out`, the best first; ties in order of the catalogue."""
    kept = scores.copy()
    kept[list(left_out)] = -np.inf
    near = np.flatnonzero(kept >= _floor(kept, count))
    near = near[np.isfinite(kept[near])]
    order = near[np.argsort(-kept[near], kind="stable")][:count]
    return [int(at) for at in order]


def _floor(scores: Floats, count: int) -> np.float32:
    """A lower bound that at least `count` scores reach, and few others: the count-th best of the groups' maxima."""
    maxima = np.maximum.reduceat(scores, np.arange(0, len(scores), _GROUP)) if len(scores) else scores
    if len(maxima) <= count:
        return np.float32(-np.inf)
    return np.float32(np.partition(maxima, len(maxima) - count)[len(maxima) - count])
