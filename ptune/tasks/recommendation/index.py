"""The items of an adapter: titles, vectors, and how often two are had together. Searched with numpy; no torch, no pickle.

How near two items are is (1 - weight) * cosine of their titles' vectors + weight * cosine of who had them (item-kNN:
Sarwar et al. 2001). An item's score for a user is the mean of that over the user's history.
"""

from __future__ import annotations

import json
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
from ptune.formats.whole_write import whole_file, write_text
from ptune.tasks.recommendation.int8_scan import Int8Scan, kept

ARRAYS, TITLES = "items.npz", "items.jsonl"
"""Files beside PEFT's in an adapter's folder."""
RECALL = "int8_recall@10"
"""Of a record's `embedding`: what a scan in int8 found of the first ten, where there are many items."""
Floats = npt.NDArray[np.float32]
_GROUP = 64  # neighbouring scores of which the best is looked at first
_MOST_FOUND = 1000  # items that hold some words, of which the best are given
_PARTS = {"vectors": 2, "starts": 1, "columns": 1, "values": 1, "weight": 0}


@dataclass(frozen=True, eq=False)
class ItemIndex:
    """vectors [items, width] of length 1; who was had with item i: columns[starts[i]:starts[i + 1]], and values likewise."""

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
        """What is looked at to find an item by words."""
        return [f"{title}\n{item}".casefold() for item, title in zip(self.items, self.titles, strict=True)]

    def find(self, words: str, count: int) -> list[int]:
        """Items whose title or name holds the words, those first whose title begins with them."""
        wanted = " ".join(words.casefold().split())
        holding = (at for at, said in enumerate(self._words) if wanted in said)
        found = sorted(islice(holding, _MOST_FOUND), key=lambda at: not self._words[at].startswith(wanted))
        return found[:count]

    def scores(
        self, history: Sequence[int], more: Floats | None = None, weight: float | None = None
    ) -> Floats:
        """[items] of a user with these items, and with others that have only vectors ([others, width])."""
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
        """Up to `count` items with their scores, the best first; of equal ones the earlier.

        left_out: do not come; among: the only ones that may come.
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
        """What items are compared with ([width]), and what a user of an item of the history adds."""
        share = self.weight if weight is None else weight
        vectors = self.vectors[list(history)]
        if more is not None:
            vectors = np.concatenate([vectors, more])
        count = max(len(vectors), 1)
        return vectors.sum(0) * np.float32((1 - share) / count), share / count

    def _with_users(
        self, scores: Floats, history: Sequence[int], share: float, items: npt.NDArray[Any] | None = None
    ) -> Floats:
        """The scores, in place, with what is had together. items: whose they are, in ascending order; None = all."""
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
        """[history and others] how near item `at` is to each: what its score is the mean of."""
        share = self.weight if weight is None else weight
        vectors = (
            self.vectors[list(history)]
            if more is None
            else np.concatenate([self.vectors[list(history)], more])
        )
        found: Floats = (vectors @ self.vectors[at]) * np.float32(1 - share)
        row = slice(self.starts[at], self.starts[at + 1])
        together = dict(zip(self.columns[row].tolist(), self.values[row].tolist(), strict=True))
        for number, one in enumerate(history):
            found[number] += share * together.get(one, 0.0)
        return found

    def save(self, folder: Path) -> None:
        """Writes items.jsonl and items.npz."""
        lines = (
            json.dumps({"item": item, "title": title}, ensure_ascii=False) + "\n"
            for item, title in zip(self.items, self.titles, strict=True)
        )
        write_text(folder / TITLES, "".join(lines))
        arrays: dict[str, Any] = {name: np.asarray(getattr(self, name)) for name in _PARTS}
        with whole_file(folder / ARRAYS) as part, part.open("wb") as file:
            np.savez(file, **arrays)  # the dates of its members are fixed

    @classmethod
    def open(cls, folder: Path) -> ItemIndex:
        """Reads what `save` wrote. Raises: FormatError where a file is missing, damaged, or fits the other badly."""
        try:
            lines = (folder / TITLES).read_text(encoding="utf-8").splitlines()
            rows = [json.loads(line) for line in lines]
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
        """Raises: ValueError where the parts do not fit together."""
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
    """Raises: ValueError where the file would unpack to more than it is, or holds something else."""
    with zipfile.ZipFile(path) as file:
        if any(member.compress_type != zipfile.ZIP_STORED for member in file.infolist()):
            raise ValueError(f"{path.name} is compressed")
    kinds = {"starts": np.int64, "columns": np.int32}
    with np.load(path, allow_pickle=False) as found:
        arrays = {name: found[name] for name in _PARTS}
    for name, dimensions in _PARTS.items():
        if arrays[name].ndim != dimensions or arrays[name].dtype.kind not in "fi":
            raise ValueError(f"{path.name}: {name} is {arrays[name].dtype} of {arrays[name].shape}")
    return {name: array.astype(kinds.get(name, np.float32), copy=False) for name, array in arrays.items()}


def together(
    histories: Iterable[Sequence[int]], items: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], Floats]:
    """starts, columns and values of the cosines between items by who had them: shared users / sqrt(users of each)."""
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
    """The items with the highest scores, the best first; of equal ones the earlier. `left_out` are not among them."""
    kept = scores.copy()
    kept[list(left_out)] = -np.inf
    near = np.flatnonzero(kept >= _floor(kept, count))
    near = near[np.isfinite(kept[near])]
    order = near[np.argsort(-kept[near], kind="stable")][:count]
    return [int(at) for at in order]


def _floor(scores: Floats, count: int) -> np.float32:
    """What `count` of the scores reach at least, and few others do: so many groups have their best there."""
    maxima = np.maximum.reduceat(scores, np.arange(0, len(scores), _GROUP)) if len(scores) else scores
    if len(maxima) <= count:
        return np.float32(-np.inf)
    return np.float32(np.partition(maxima, len(maxima) - count)[len(maxima) - count])
