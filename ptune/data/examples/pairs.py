"""Pairs of texts as tokenised examples, cut to length, in memory."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from ptune.codecs.sequence import Encoded, SequenceCodec
from ptune.config.recipe import Data
from ptune.config.retrieval import Embedding
from ptune.data.examples.overlong import RowLengths, check_weights, refuse_overlong
from ptune.data.label_splits import SPLITS
from ptune.data.shapes.pairs import Pair, PairSplits
from ptune.progress import Progress, say

_LONGER = "have a text longer than"
_KEPT = 1 << 16  # texts whose tokens are cached: many occur in several rows


@dataclass(frozen=True, slots=True)
class PairExample:
    """Tokens of an anchor, its positive and its negatives."""

    anchor: tuple[int, ...]
    positive: tuple[int, ...]
    negatives: tuple[tuple[int, ...], ...] = ()

    @property
    def texts(self) -> tuple[tuple[int, ...], ...]:
        return (self.anchor, self.positive, *self.negatives)

    def __len__(self) -> int:
        return sum(map(len, self.texts))


@dataclass
class PairSplit(RowLengths):
    """A split's examples, and counts of its rows."""

    examples: list[PairExample] = field(default_factory=list)
    rows: list[Pair] = field(default_factory=list)  # the row of each example

    def described(self) -> dict[str, Any]:
        """The split for data.json; `sha256` is over all tokens."""
        digest = hashlib.sha256()
        for example in self.examples:
            for text in example.texts:
                digest.update(array("q", (len(text), *text)).tobytes())
            digest.update(b"\n")
        return {
            "rows": self.lengths.total(),
            "examples": len(self.examples),
            "tokens": sum(map(len, self.examples)),
            "negatives": sum(len(example.negatives) for example in self.examples),
            "overlong": self.overlong,
            "left_out": self.left_out,
            "sha256": digest.hexdigest(),
        }


@dataclass(frozen=True)
class PairData:
    """Examples of the three splits; `parts` and `summary` as in `ptune.training.work.TaskData`."""

    splits: Mapping[str, PairSplit]
    parts: tuple[int, ...]
    summary: dict[str, Any]

    @property
    def train(self) -> Sequence[PairExample]:
        return self.splits["train"].examples

    @property
    def validation(self) -> Sequence[PairExample]:
        return self.splits["validation"].examples


def encoded_pairs(splits: PairSplits, data: Data, task: Embedding, codec: SequenceCodec) -> PairData:
    """Encodes the rows. Prints how many are too long.

    Raises: DataError if texts are too long and the recipe forbids that, or a split is left empty.
    """
    limit = codec.limit(task.max_length)
    made = {split: PairSplit() for split in SPLITS}
    encode = lru_cache(_KEPT)(lambda text: codec.encode(text, max_length=task.max_length))
    with Progress("tokenising", sum(map(len, splits.rows.values())), unit="rows") as progress:
        for name, split in made.items():
            for row in splits.rows[name]:
                _add(split, row, task, encode)
                progress.advance()
    refuse_overlong(made, task.on_overlong, limit, _LONGER)
    summary = {
        "files": [{"split": split, **file.described()} for split, file in splits.files],
        "validation_share": None if data.validation else data.validation_share,
        "longest_tokens": limit,
        "on_overlong": task.on_overlong,
        **{name: split.described() for name, split in made.items()},
    }
    for name, split in made.items():
        if split.overlong:
            over = f"{split.overlong} of {split.lengths.total()} rows {_LONGER} {limit} tokens"
            say(f"{name}: {over} ({task.on_overlong})")
    files = [file for split, file in splits.files if split == "train"]
    parts = tuple(sum(row.file is file for row in made["train"].rows) for file in files)
    check_weights(data, parts)
    return PairData(made, parts, summary)


def _add(split: PairSplit, row: Pair, task: Embedding, encode: Callable[[str], Encoded]) -> None:
    token_ids = [encode(text) for text in (row.anchor, *row.passages)]
    too_long = any(one.truncated for one in token_ids)
    split.count(max(one.length for one in token_ids), row.place, too_long=too_long)
    if too_long and task.on_overlong == "drop":
        split.left_out += 1
        return
    anchor, positive, *negatives = (one.ids for one in token_ids)
    split.examples.append(PairExample(anchor, positive, tuple(negatives)))
    split.rows.append(row)
