"""Makes tokenised examples for an encoder-decoder from sources and targets, cut to length, in memory."""

from __future__ import annotations

import hashlib
import itertools
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ptune.codecs.seq2seq import Seq2SeqCodec
from ptune.config.recipe import Data
from ptune.config.translation import Translation
from ptune.data.examples.overlong import RowLengths, check_weights, refuse_overlong
from ptune.data.label_splits import SPLITS
from ptune.data.read import open_file
from ptune.data.shapes.by_task import shapes_of
from ptune.data.shapes.conversations import Conversation
from ptune.data.shapes.translations import in_columns
from ptune.data.source import Sample, Source, hold_out, lowest_of_prompts, open_source
from ptune.errors import DataError
from ptune.progress import Progress, say


@dataclass(frozen=True, slots=True)
class Seq2SeqExample:
    """A tokenised pair; the target ends with an end token."""

    source: tuple[int, ...]
    target: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.source) + len(self.target)


@dataclass(frozen=True, slots=True)
class TextPair:
    """A source and its translation, as in the file."""

    source: str
    target: str


@dataclass
class Seq2SeqSplit(RowLengths):
    """A split's examples, and counts of its rows."""

    examples: list[Seq2SeqExample] = field(default_factory=list)
    pairs: list[TextPair] = field(default_factory=list)  # the pair of each example

    def described(self) -> dict[str, Any]:
        """The split for data.json; `sha256` is over all tokens."""
        digest = hashlib.sha256()
        for example in self.examples:
            for ids in (example.source, example.target):
                digest.update(array("q", (len(ids), *ids)).tobytes())
        return {
            "rows": self.lengths.total(),
            "examples": len(self.examples),
            "tokens": sum(map(len, self.examples)),
            "targets": sum(len(example.target) for example in self.examples),
            "overlong": self.overlong,
            "left_out": self.left_out,
            "sha256": digest.hexdigest(),
        }


@dataclass(frozen=True)
class Seq2SeqData:
    """Examples of the three splits; `parts` and `summary` as in `ptune.training.work.TaskData`."""

    splits: Mapping[str, Seq2SeqSplit]
    parts: tuple[int, ...]
    summary: dict[str, Any]

    @property
    def train(self) -> Sequence[Seq2SeqExample]:
        return self.splits["train"].examples

    @property
    def validation(self) -> Sequence[Seq2SeqExample]:
        return self.splits["validation"].examples


def load_pairs(data: Data, task: Translation, codec: Seq2SeqCodec, seed: int) -> Seq2SeqData:
    """Reads a recipe's data and encodes it. Prints the recognised shapes.

    Without validation files, `validation_share` of the rows in `files` is held out (see `hold_out`).
    Raises: DataError that names file and line of unusable rows, all problems of a file at once.
    """
    if not data.files:
        raise DataError(
            f"no training data: pass --data.files PATH (rows of {task.source} and {task.target}, as JSONL, CSV, TMX,"
            " gettext's .po, …)"
        )
    named = {"train": data.files, "validation": data.validation, "test": data.test}
    files = [(name, in_columns(open_file(path), task)) for name, paths in named.items() for path in paths]
    holds_out = not data.validation
    shapes = shapes_of(task)
    sources = [
        (name, open_source(file, seed if holds_out and name == "train" else None, shapes))
        for name, file in files
    ]
    for _, source in sources:
        description = source.described()
        say(
            f"{description['path']}: {description['shape']}, {description['rows']} rows ({description['format']})"
        )
    splits = {name: Seq2SeqSplit() for name in SPLITS}
    described = _encode(sources, splits, data, task, codec)
    limit = codec.texts.limit(task.max_length)
    refuse_overlong(splits, task.on_overlong, limit, "have a text longer than")
    parts = tuple(file["examples"] for file in described if file["split"] == "train")
    check_weights(data, parts)
    summary = {
        "files": described,
        "validation_share": data.validation_share if holds_out else None,
        "longest_tokens": limit,
        "on_overlong": task.on_overlong,
        **{name: split.described() for name, split in splits.items()},
    }
    for name, split in splits.items():
        if split.examples:
            say(f"{name}: {len(split.examples)} examples, {sum(map(len, split.examples))} tokens")
    return Seq2SeqData(splits, parts, summary)


def _encode(
    sources: Sequence[tuple[str, Source]],
    splits: Mapping[str, Seq2SeqSplit],
    data: Data,
    task: Translation,
    codec: Seq2SeqCodec,
) -> list[dict[str, Any]]:
    """Fills the splits; returns the files as in data.json. Raises: DataError if rows cannot be used."""
    ranks = None if data.validation else lowest_of_prompts([one for name, one in sources if name == "train"])
    held = iter(() if ranks is None else hold_out(ranks, data.validation_share, together=True))
    described, taken = [], itertools.count()
    with Progress("tokenising", sum(source.row_count for _, source in sources), unit="rows") as progress:
        for name, source in sources:
            problems, own = source.file.problems(), len(splits[name].examples)
            for sample in source.samples(problems):
                split = splits["validation" if name == "train" and next(held, False) else name]
                if split is not splits["train"] or data.limit is None or next(taken) < data.limit:
                    _add(split, sample, task, codec)
                progress.advance()
            problems.raise_if_any(source.row_count)
            count = len(splits[name].examples) - own
            described.append({"split": name, **source.described(), "examples": count})
    return described


def _add(split: Seq2SeqSplit, sample: Sample, task: Translation, codec: Seq2SeqCodec) -> None:
    assert isinstance(sample.conversation, Conversation)  # the only shape of translation rows
    source, target = (str(message["content"]) for message in sample.conversation.messages)
    prefix = task.system or ""
    read, written = codec.source(prefix + source, task.max_length), codec.target(target, task.max_length)
    too_long = read.truncated or written.truncated
    split.count(max(read.length, written.length), sample.place, too_long=too_long)
    if not read.ids or (too_long and task.on_overlong == "drop"):
        split.left_out += 1
        return
    split.examples.append(Seq2SeqExample(read.ids, written.ids))
    split.pairs.append(TextPair(source, target))
