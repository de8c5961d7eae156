"""A data file with a known shape: yields its conversations, and gathers facts on all of them before encoding."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from ptune.data.problems import Problems
from ptune.data.read import DataFile
from ptune.data.readers.delimited import Delimited
from ptune.data.shapes.conversations import (
    SHAPES,
    SOURCE_AND_TARGET,
    Conversation,
    Convertible,
    Judged,
    Preferred,
    Shape,
    recognise,
)
from ptune.data.shapes.named_columns import names_in, options_for, proposed
from ptune.data.shapes.row_weights import Weights
from ptune.errors import DataError
from ptune.progress import Progress

_NOTED_EVERY = 1000  # rows
_MANY_ROWS = 10_000
_LOOKED_AT = 200  # rows


@dataclass(frozen=True)
class Sample:
    """A conversation with its place."""

    conversation: Convertible
    number: int  # its line or row
    problems: Problems  # its file's
    weight: float = 1.0  # how often it counts in training

    @property
    def place(self) -> str:
        return f"{self.problems.file}, {self.problems.unit} {self.number}"


@dataclass(frozen=True)
class Source:
    """The contents of one file."""

    file: DataFile
    shape: Shape
    row_count: int  # including unusable rows
    ranks: array[int]  # of the samples, for `hold_out`; empty if nothing is held out
    unread: tuple[str, ...] = ()  # columns that the shape does not use
    left_out: Mapping[str, int] = field(default_factory=dict)  # entries that are skipped, by reason
    weights: Weights = field(default_factory=Weights)
    prompts: array[int] = field(default_factory=lambda: array("Q"))  # a hash of what each sample answers

    def samples(self, problems: Problems) -> Iterator[Sample]:
        """Yields the file's conversations in order; unusable rows go to `problems`. A row of weight 0 is not there."""
        for row in self.file.rows(problems):
            try:
                weight = _weight(self.file, self.shape, row.value)
                sample = Sample(self.shape.converted(row.value), row.number, problems, weight)
            except DataError as error:
                problems.add(row.number, str(error))
                continue
            if weight:
                yield sample

    def check(self) -> None:
        """Raises: DataError if a row cannot be read or does not fit the shape."""
        problems = self.file.problems()
        for _ in self.samples(problems):
            pass
        problems.raise_if_any(self.row_count)

    def described(self) -> dict[str, Any]:
        """The file for data.json."""
        return {
            "path": str(self.file.path),
            "sha256": self.file.sha256,
            "format": self.file.reader.format,
            "shape": self.shape.name,
            "rows": self.row_count,
            "unread_columns": list(self.unread),
            **({"left_out": dict(self.left_out)} if self.left_out else {}),
            **self.weights.described(),
        }


def open_source(file: DataFile, seed: int | None, shapes: Sequence[Shape] = SHAPES) -> Source:
    """Reads a file once: recognises its shape by its columns, and ranks its samples if there is a seed.

    Raises: DataError if the file as a whole cannot be used.
    """
    problems, columns, ranks, prompts = file.problems(), set[str](), array("Q"), array("Q")
    shape: Shape | None = None
    first: list[dict[str, Any]] = []  # rows before a shape is known
    readable, broken, weights = 0, False, Weights()
    with Progress(f"reading {file.path}", 1, unit="files") as progress:
        for row in file.rows(problems):
            readable += 1
            if not columns.issuperset(row.value):
                # A shape found only after some rows means that these lack a column: the file is refused later.
                columns |= row.value.keys()
                shape = _known(columns, shapes)
            if shape is None:
                first += [row.value] if len(first) < _LOOKED_AT else []
            else:
                try:
                    weight, conversation = _weight(file, shape, row.value), shape.converted(row.value)
                except DataError:
                    broken = True  # reported when the row is encoded
                else:
                    weights.count(weight)
                    if weight and seed is not None:
                        ranks.append(_rank(conversation, seed))
                        prompts.append(_prompt(conversation, shape, seed, ranks[-1]))
            if readable % _NOTED_EVERY == 0:
                progress.advance(0, note=f"{readable} rows")
        progress.advance()
    total = readable + problems.count
    if not readable:
        problems.raise_if_any(total)
        raise DataError("the file holds no rows", file=str(file.path))
    shape = shape or _unknown(file, columns, shapes, first)
    weights.column = shape.weight if shape.weight in columns else None
    left_out = {**getattr(file.reader, "left_out", {}), **weights.left_out}
    source = Source(file, shape, total, ranks, tuple(shape.unread(columns)), left_out, weights, prompts)
    if (broken or problems.count) and (total > _MANY_ROWS or (seed is not None and len(ranks) < 2)):
        # Encoding might find more, but takes long; and faults of rows explain why there are too few.
        source.check()
    weights.check_left(total, file.path)
    return source


def _weight(file: DataFile, shape: Shape, row: dict[str, Any]) -> float:
    return shape.weight_of(row, text=file.text_only)


def lowest_of_prompts(sources: Sequence[Source]) -> npt.NDArray[np.uint64]:
    """The rank of each sample, which is the lowest of those that answer the same prompt, so that they are held out together."""
    ranks, prompts = (
        np.concatenate([np.frombuffer(one, np.uint64) for one in some])
        for some in ([source.ranks for source in sources], [source.prompts for source in sources])
    )
    known, of = np.unique(prompts, return_inverse=True)
    lowest = np.full(len(known), np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(lowest, of, ranks)
    return lowest[of]


def hold_out(ranks: npt.NDArray[np.uint64], share: float, *, together: bool = False) -> npt.NDArray[np.bool_]:
    """Marks the samples to hold out: `share` of them, at least one, the lowest in rank.

    Ranks are hashes of seed and content, so that neither the order of the samples nor the machine matters.
    together: whether samples of the same rank are kept together, as long as others are left.

    Raises: DataError if there are too few.
    """
    if len(ranks) < 2:
        raise DataError(f"{len(ranks)} row is too few to hold any out: pass --data.validation PATH")
    count = min(max(1, round(share * len(ranks))), len(ranks) - 1)
    held = np.zeros(len(ranks), bool)
    held[np.argsort(ranks, kind="stable")[:count]] = True
    alike = ranks <= ranks[held].max()
    return alike if together and not alike.all() else held


def _rank(conversation: Convertible, seed: int) -> int:
    """The first 8 bytes of a SHA-256; of judged answers over the prompt alone, so that all answers to it go together."""
    return _hash(conversation.prompt if isinstance(conversation, Judged) else asdict(conversation), seed)


def _prompt(conversation: Convertible, shape: Shape, seed: int, rank: int) -> int:
    """A hash of the prompt of a pair of answers, or of the source of a translation; of all else its rank."""
    if isinstance(conversation, Preferred):
        return _hash(conversation.prompt, seed)
    if shape.name == SOURCE_AND_TARGET and isinstance(conversation, Conversation):
        return _hash(conversation.question, seed)
    return rank


def _hash(content: Any, seed: int) -> int:
    text = json.dumps([seed, content], sort_keys=True, default=str)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _known(columns: set[str], shapes: Sequence[Shape]) -> Shape | None:
    try:
        return recognise(columns, shapes)
    except DataError:
        return None


def _unknown(
    file: DataFile, columns: set[str], shapes: Sequence[Shape], first: list[dict[str, Any]]
) -> NoReturn:
    """Raises: DataError that lists the columns and the shapes known, and proposes which columns are meant."""
    hint = " (the first line must name the columns)" if isinstance(file.reader, Delimited) else ""
    try:
        recognise(columns, shapes)
    except DataError as error:
        proposal = options_for(_meant(shapes, first))
        say_it = f"; if yours have other names, say which is which, as in {proposal}" if proposal else ""
        raise DataError(f"{error}{hint}{say_it}", file=str(file.path)) from None
    raise AssertionError


def _meant(shapes: Sequence[Shape], rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The columns that rows may have meant; empty if that cannot be told."""
    if {shape.name for shape in shapes}.isdisjoint({SOURCE_AND_TARGET, *(shape.name for shape in SHAPES)}):
        return {}
    there = names_in(rows)
    if shapes[0].name == SOURCE_AND_TARGET:
        pair = dict(zip(("source", "target"), shapes[0].columns, strict=True))
        return proposed([column for column, name in pair.items() if name not in there], rows, pair.values())
    texts = [name for name in there if any(isinstance(row.get(name), str) for row in rows)]
    for name in there:
        values = [row[name] for row in rows if row.get(name)]
        if values and all(isinstance(value, list) and isinstance(value[0], dict) for value in values):
            return {"messages": name}
    return proposed(["prompt", "completion"] if len(texts) > 1 else ["text"], rows) if texts else {}
