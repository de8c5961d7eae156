"""Interactions for recommendation: rows of `user`, `item` and optionally `time`; titles of items; histories and their splits."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from ptune.config.columns import InteractionColumns
from ptune.config.recipe import Recipe
from ptune.config.recommendation import Recommendation
from ptune.config.retrieval import Embedding, Reranking
from ptune.data.read import open_file
from ptune.data.readers.rows import Row
from ptune.data.shapes.named_columns import found, names_in, optional
from ptune.data.shapes.pairs import Pair, PairFile, PairSplits, read_pair_splits
from ptune.errors import DataError

_HELD = 1000  # pairs of a held-out split
USER, ITEM = ("user", "user_id"), ("item", "item_id")
TIME, TITLE = ("time", "timestamp"), ("title", "name")


@dataclass(frozen=True, slots=True)
class Interaction:
    """One item of one user."""

    user: str
    item: str
    time: float | None
    number: int  # its line or row
    file: PairFile

    @property
    def rank(self) -> bytes:
        """A reproducible random rank: without times, the smallest is held out."""
        return hashlib.sha256(f"{self.user}|{self.item}".encode()).digest()


@dataclass(frozen=True)
class History:
    """A user's items, the newest last. The last of `kept` is for the test, the one before for validation."""

    user: str
    kept: list[Interaction]
    withheld: list[Interaction]  # items that training must not see

    @property
    def train(self) -> list[Interaction]:
        return self.kept[:-2] if len(self.kept) > 2 else self.kept[:1]

    @property
    def validation(self) -> Interaction | None:
        return self.kept[-2] if len(self.kept) > 2 else None

    @property
    def test(self) -> Interaction | None:
        return self.kept[-1] if len(self.kept) > 1 else None


@dataclass
class Interactions:
    """All rows of a recipe. Unusable ones are kept for the doctor; `check` raises for them."""

    withhold: int = 0
    titles: dict[str, str] = field(default_factory=dict)  # item -> title or name, in the file's order
    rows: list[Interaction] = field(default_factory=list)  # known items only, each pair of user and item once
    files: list[tuple[str, PairFile]] = field(default_factory=list)  # `train`, and `items`
    errors: list[DataError] = field(default_factory=list)  # for whole files
    unknown: list[Interaction] = field(default_factory=list)  # with items that the catalogue lacks
    repeated: list[Interaction] = field(default_factory=list)
    untitled: list[tuple[str, PairFile, int]] = field(default_factory=list)  # item, file and row

    def check(self) -> None:
        """Raises: DataError if a file or a row cannot be read."""
        for error in self.errors:
            raise error
        for _, file in self.files:
            file.problems.raise_if_any(file.row_count)

    @cached_property
    def place(self) -> dict[str, int]:
        """Item -> index in the catalogue."""
        return {item: at for at, item in enumerate(self.titles)}

    @cached_property
    def withheld(self) -> frozenset[str]:
        """The items to withhold: those with the smallest hashes among all users' items."""
        had = {row.item for row in self.rows}
        return frozenset(
            sorted(had, key=lambda item: hashlib.sha256(item.encode()).digest())[: self.withhold]
        )

    @cached_property
    def timed(self) -> bool:
        """Whether every row has a time."""
        return bool(self.rows) and all(row.time is not None for row in self.rows)

    @cached_property
    def histories(self) -> list[History]:
        """One history per user, in order of first appearance."""
        of_users: dict[str, list[Interaction]] = {}
        for row in self.rows:
            of_users.setdefault(row.user, []).append(row)
        histories = []
        for user, rows in of_users.items():
            rows.sort(key=lambda row: row.rank, reverse=True)
            if self.timed:
                rows.sort(key=lambda row: row.time or 0.0)
            kept = [row for row in rows if row.item not in self.withheld]
            histories.append(History(user, kept, [row for row in rows if row.item in self.withheld]))
        return histories

    def pairs(self, limit: int | None = None) -> PairSplits:
        """Pairs of titles to bring close: an item, and the next one of the same user."""
        splits = PairSplits(files=self.files, errors=self.errors)
        for history in self.histories:
            train = history.train
            ring = [*train[1:], *([] if self.timed or len(train) < 2 else train[:1])]
            splits.rows["train"] += self._after(train, ring)
            for split, held in (("validation", history.validation), ("test", history.test)):
                if held is not None:
                    splits.rows[split] += self._after(train[-1:], [held])
        splits.rows["train"] = splits.rows["train"][:limit]
        # File after file, as `data.weights` finds them.
        order = {id(file): at for at, (_, file) in enumerate(self.files)}
        splits.rows["train"].sort(key=lambda pair: order[id(pair.file)])
        for split in ("validation", "test"):  # enough for a loss; figures use all histories
            splits.rows[split] = splits.rows[split][:: max(-(-len(splits.rows[split]) // _HELD), 1)]
        return splits

    def _after(self, before: Sequence[Interaction], after: Sequence[Interaction]) -> Iterator[Pair]:
        for one, other in zip(before, after, strict=False):
            anchor, positive = self.titles[one.item], self.titles[other.item]
            if anchor != positive:
                yield Pair(anchor, positive, (), other.number, other.file)


def read_interactions(recipe: Recipe) -> Interactions:
    """Reads a recipe's files. Raises: DataError if it names none; other errors are kept for `Interactions.check`."""
    task = recipe.task
    assert isinstance(task, Recommendation)
    if recipe.data.validation or recipe.data.test:
        raise DataError(
            "data.validation and data.test are not for recommendation: of each user's items in data.files one is held out"
            " for the test, and one to validate"
        )
    if not recipe.data.files:
        raise DataError(
            "no training data: pass --data.files PATH (rows of user and item, as JSONL, CSV, Parquet, …) and"
            " --task.items PATH (rows of item and title), for example --data.files sample:debian_deps"
        )
    interactions = Interactions(task.withheld)
    _reading(interactions, "items", task.items, task.columns)
    for path in recipe.data.files:
        _reading(interactions, "train", path, task.columns)
    return interactions


def names_users(path: Path, user: str | None = None) -> bool:
    """Whether a file has a column of users, which may be called `user`. Raises: DataError if it cannot be read."""
    file = open_file(path)
    first = next(iter(file.rows(file.problems())), None)
    return first is not None and any(name in first.value for name in ((user,) if user else USER))


def read_had(data: Sequence[Path], titles: Mapping[str, str], named: InteractionColumns) -> Interactions:
    """Reads interactions with the items of a known catalogue. Raises: DataError."""
    interactions = Interactions(titles=dict(titles))
    for path in data:
        _reading(interactions, "train", path, named)
    interactions.check()
    if interactions.unknown:
        first = interactions.unknown[0]
        raise DataError(
            f"{first.file.problems.unit} {first.number}: there is no item {first.item!r} in the catalogue"
            + (
                f"; {more:,} more rows name items that are not there"
                if (more := len(interactions.unknown) - 1)
                else ""
            ),
            file=first.file.name,
        )
    return interactions


def splits_of(recipe: Recipe) -> PairSplits:
    """A recipe's pairs of texts, from its files or from its users' histories. Raises: DataError."""
    if isinstance(recipe.task, Recommendation):
        return read_interactions(recipe).pairs(recipe.data.limit)
    assert isinstance(recipe.task, Embedding | Reranking)
    return read_pair_splits(recipe.data, recipe.train.seed, recipe.task.columns)


def _reading(interactions: Interactions, kind: str, path: Path, named: InteractionColumns) -> None:
    try:
        file = open_file(path)
        problems = file.problems()
        rows = list(file.rows(problems))
        if not rows:
            problems.raise_if_any(problems.count)
            raise DataError("the file holds no rows", file=str(path))
        values = [row.value for row in rows]
        usual = {"item": ITEM, "title": TITLE} if kind == "items" else {"user": USER, "item": ITEM}
        if kind != "items" and named.time is not None:
            usual["time"] = TIME
        chosen = found(file, values, {column: named.names(column, names) for column, names in usual.items()})
        first, second = (chosen[column] for column in list(usual)[:2])
        columns = names_in(values)
        time = None if kind == "items" else chosen.get("time") or optional(TIME, columns)
    except DataError as error:
        interactions.errors.append(error)
        return
    read = PairFile(
        file,
        problems,
        tuple(name for name in columns if name not in (first, second, time)),
        total=len(rows) + problems.count,
    )
    interactions.files.append((kind, read))
    (_items if kind == "items" else _rows)(interactions, read, rows, first, second, time)


def _items(
    interactions: Interactions, file: PairFile, rows: Sequence[Row], item: str, title: str, _: str | None
) -> None:
    for row in rows:
        try:
            name = _id(row.value.get(item), item)
            if name in interactions.titles:
                raise DataError(f"{item} {name!r} stands twice in the catalogue")
            text = row.value.get(title)
            if not isinstance(text, str | None):
                raise DataError(f"{title} is {type(text).__name__}, not text")
        except DataError as error:
            file.problems.add(row.number, str(error))
            continue
        if not text or not text.strip():
            interactions.untitled.append((name, file, row.number))
        interactions.titles[name] = text if text and text.strip() else name


def _rows(
    interactions: Interactions, file: PairFile, rows: Sequence[Row], user: str, item: str, time: str | None
) -> None:
    seen = {(row.user, row.item) for row in interactions.rows}
    for row in rows:
        try:
            when = None if time is None else _seconds(row.value.get(time), time)
            interaction = Interaction(
                _id(row.value.get(user), user), _id(row.value.get(item), item), when, row.number, file
            )
        except DataError as error:
            file.problems.add(row.number, str(error))
            continue
        if interaction.item not in interactions.titles:
            interactions.unknown.append(interaction)
        elif (interaction.user, interaction.item) in seen:
            interactions.repeated.append(interaction)
        else:
            seen.add((interaction.user, interaction.item))
            interactions.rows.append(interaction)


def _id(value: Any, column: str) -> str:
    """A text or a whole number. Raises: DataError."""
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise DataError(f"has no {column}" if value in (None, "") else f"{column} {value!r} is no name")
    return str(value).strip()


def _seconds(value: Any, column: str) -> float:
    """A number, or the seconds since 1970 of a date, in UTC unless it says otherwise. Raises: DataError."""
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = _since_1970(value)
    if math.isnan(seconds):
        raise DataError(
            f"{column} {value!r} is not a number, such as seconds since 1970, nor a date, such as 2025-12-31 or 2025-12-31 18:30"
        )
    return seconds


def _since_1970(value: Any) -> float:
    """The seconds of a date, or of its text as ISO 8601 writes it; not a number if it is none."""
    try:
        moment = datetime.fromisoformat(str(value).strip())
    except ValueError:
        return math.nan
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
