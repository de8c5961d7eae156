"""Who had what: rows of `user`, `item` and, if any, `time`; the items' titles; and what is held out of each history."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ptune.config.recipe import Recipe
from ptune.config.recommendation import Recommendation
from ptune.data.pairs import Pair, PairFile, PairSplits, column_of, read_pair_splits
from ptune.data.read import open_file
from ptune.data.rows import Row
from ptune.errors import DataError

_HELD = 1000  # pairs of a split that is held out
USER, ITEM = ("user", "user_id"), ("item", "item_id")
TIME, TITLE = ("time", "timestamp"), ("title", "name")


@dataclass(frozen=True, slots=True)
class Interaction:
    """A user had an item."""

    user: str
    item: str
    time: float | None
    number: int  # of its line or row
    file: PairFile

    @property
    def rank(self) -> bytes:
        """Chance that is the same everywhere: the smallest is held out where nothing is known of time."""
        return hashlib.sha256(f"{self.user}|{self.item}".encode()).digest()


@dataclass(frozen=True)
class History:
    """What a user had, the newest last; of `kept` the last is for the test, the one before for validation."""

    user: str
    kept: list[Interaction]
    withheld: list[Interaction]  # of items that training must not see

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
    """All of a recipe's rows. What cannot be used is kept, so that a doctor can tell it: `check` raises it."""

    withhold: int = 0
    titles: dict[str, str] = field(default_factory=dict)  # item -> title, else its name, in the file's order
    rows: list[Interaction] = field(default_factory=list)  # of known items, each pair of user and item once
    files: list[tuple[str, PairFile]] = field(default_factory=list)  # `train`, and `items`
    errors: list[DataError] = field(default_factory=list)  # of whole files
    unknown: list[Interaction] = field(default_factory=list)  # of items that the catalogue lacks
    repeated: list[Interaction] = field(default_factory=list)
    untitled: list[tuple[str, PairFile, int]] = field(default_factory=list)  # item, file and row

    def check(self) -> None:
        """Raises: DataError where a file or a row cannot be read."""
        for error in self.errors:
            raise error
        for _, file in self.files:
            file.problems.raise_if_any(file.row_count)

    @cached_property
    def place(self) -> dict[str, int]:
        """item -> its number in the catalogue."""
        return {item: at for at, item in enumerate(self.titles)}

    @cached_property
    def withheld(self) -> frozenset[str]:
        """The items that are taken out: those with the smallest hashes of all that somebody had."""
        had = {row.item for row in self.rows}
        return frozenset(
            sorted(had, key=lambda item: hashlib.sha256(item.encode()).digest())[: self.withhold]
        )

    @cached_property
    def timed(self) -> bool:
        """Whether every row says when."""
        return bool(self.rows) and all(row.time is not None for row in self.rows)

    @cached_property
    def histories(self) -> list[History]:
        """One a user, in the order in which users first appear."""
        of_users: dict[str, list[Interaction]] = {}
        for row in self.rows:
            of_users.setdefault(row.user, []).append(row)
        found = []
        for user, rows in of_users.items():
            rows.sort(key=lambda row: row.rank, reverse=True)
            if self.timed:
                rows.sort(key=lambda row: row.time or 0.0)
            kept = [row for row in rows if row.item not in self.withheld]
            found.append(History(user, kept, [row for row in rows if row.item in self.withheld]))
        return found

    def pairs(self, limit: int | None = None) -> PairSplits:
        """Titles that are to come near each other: an item, after another one of the same user."""
        splits = PairSplits(files=self.files, errors=self.errors)
        for history in self.histories:
            train = history.train
            ring = [*train[1:], *([] if self.timed or len(train) < 2 else train[:1])]
            splits.rows["train"] += self._after(train, ring)
            for split, held in (("validation", history.validation), ("test", history.test)):
                if held is not None:
                    splits.rows[split] += self._after(train[-1:], [held])
        splits.rows["train"] = splits.rows["train"][:limit]
        for split in ("validation", "test"):  # enough for a loss; figures are made of all histories
            splits.rows[split] = splits.rows[split][:: max(-(-len(splits.rows[split]) // _HELD), 1)]
        return splits

    def _after(self, before: Sequence[Interaction], after: Sequence[Interaction]) -> Iterator[Pair]:
        for one, other in zip(before, after, strict=False):
            anchor, positive = self.titles[one.item], self.titles[other.item]
            if anchor != positive:
                yield Pair(anchor, positive, (), other.number, other.file)


def read_interactions(recipe: Recipe) -> Interactions:
    """Reads a recipe's files. Raises: DataError where it names none; all else is found by `Interactions.check`."""
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
    found = Interactions(task.withheld)
    _reading(found, "items", task.items)
    for path in recipe.data.files:
        _reading(found, "train", path)
    return found


def names_users(path: Path) -> bool:
    """Whether a file's rows say who had what. Raises: DataError where it cannot be read."""
    file = open_file(path)
    first = next(iter(file.rows(file.problems())), None)
    return first is not None and any(name in first.value for name in USER)


def read_had(data: Sequence[Path], titles: Mapping[str, str]) -> Interactions:
    """Who had which of the items of a catalogue that is known. Raises: DataError."""
    found = Interactions(titles=dict(titles))
    for path in data:
        _reading(found, "train", path)
    found.check()
    if found.unknown:
        first = found.unknown[0]
        raise DataError(
            f"{first.file.problems.unit} {first.number}: there is no item {first.item!r} in the catalogue"
            + (
                f"; {more:,} more rows name items that are not there"
                if (more := len(found.unknown) - 1)
                else ""
            ),
            file=first.file.name,
        )
    return found


def splits_of(recipe: Recipe) -> PairSplits:
    """A recipe's pairs of texts: as its files hold them, or as its users' histories give them. Raises: DataError."""
    if isinstance(recipe.task, Recommendation):
        return read_interactions(recipe).pairs(recipe.data.limit)
    return read_pair_splits(recipe.data, recipe.train.seed)


def _reading(found: Interactions, kind: str, path: Path) -> None:
    try:
        file = open_file(path)
        problems = file.problems()
        rows = list(file.rows(problems))
        if not rows:
            problems.raise_if_any(problems.count)
            raise DataError("the file holds no rows", file=str(path))
        columns = list(dict.fromkeys(name for row in rows for name in row.value))
        wanted = (ITEM, TITLE) if kind == "items" else (USER, ITEM)
        first, second = (column_of(file, columns, names) for names in wanted)
        time = None if kind == "items" else next((name for name in TIME if name in columns), None)
    except DataError as error:
        found.errors.append(error)
        return
    read = PairFile(
        file,
        problems,
        tuple(name for name in columns if name not in (first, second, time)),
        total=len(rows) + problems.count,
    )
    found.files.append((kind, read))
    (_items if kind == "items" else _rows)(found, read, rows, first, second, time)


def _items(
    found: Interactions, file: PairFile, rows: Sequence[Row], item: str, title: str, _: str | None
) -> None:
    for row in rows:
        try:
            name = _id(row.value.get(item), item)
            if name in found.titles:
                raise DataError(f"{item} {name!r} stands twice in the catalogue")
            said = row.value.get(title)
            if not isinstance(said, str | None):
                raise DataError(f"{title} is {type(said).__name__}, not text")
        except DataError as error:
            file.problems.add(row.number, str(error))
            continue
        if not said or not said.strip():
            found.untitled.append((name, file, row.number))
        found.titles[name] = said if said and said.strip() else name


def _rows(
    found: Interactions, file: PairFile, rows: Sequence[Row], user: str, item: str, time: str | None
) -> None:
    known = {(row.user, row.item) for row in found.rows}
    for row in rows:
        try:
            when = None if time is None else _seconds(row.value.get(time), time)
            one = Interaction(
                _id(row.value.get(user), user), _id(row.value.get(item), item), when, row.number, file
            )
        except DataError as error:
            file.problems.add(row.number, str(error))
            continue
        if one.item not in found.titles:
            found.unknown.append(one)
        elif (one.user, one.item) in known:
            found.repeated.append(one)
        else:
            known.add((one.user, one.item))
            found.rows.append(one)


def _id(value: Any, column: str) -> str:
    """A text or a whole number. Raises: DataError."""
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise DataError(f"has no {column}" if value in (None, "") else f"{column} {value!r} is no name")
    return str(value).strip()


def _seconds(value: Any, column: str) -> float:
    """Raises: DataError."""
    try:
        if isinstance(value, bool):
            raise ValueError
        found = float(value)
        if found != found:
            raise ValueError
        return found
    except (TypeError, ValueError):
        raise DataError(f"{column} {value!r} is not a number, such as seconds since 1970") from None
