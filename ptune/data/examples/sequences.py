"""Makes tokenised examples of labelled texts and words, cut to length, in memory."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ptune.codecs.labels import Labels
from ptune.codecs.sequence import SequenceCodec
from ptune.config.process_reward import ProcessReward
from ptune.config.recipe import Data
from ptune.data.examples.overlong import RowLengths, check_weights, refuse_overlong
from ptune.data.label_splits import SPLITS, LabelSplits, Placed
from ptune.data.shapes.label_values import Target
from ptune.data.shapes.labelled import LabelledRow, TextTask
from ptune.data.shapes.row_weights import told
from ptune.progress import Progress, say


@dataclass(frozen=True, slots=True)
class SequenceExample:
    """A tokenised row and its target."""

    ids: tuple[int, ...]
    type_ids: tuple[int, ...]
    target: Target  # as `LabelledRow.label`; for words and steps, the tags of those not cut off
    words: tuple[int, ...] = ()  # for words: index of each one's first token; for steps: of its last
    weight: float = 1.0  # how often it counts in the loss while it trains

    def __len__(self) -> int:
        return len(self.ids)


@dataclass
class SequenceSplit(RowLengths):
    """A split's examples, and counts of its rows."""

    examples: list[SequenceExample] = field(default_factory=list)
    rows: list[Placed] = field(default_factory=list)  # the row of each example
    lost_words: int = 0  # tagged words, or steps, that were cut off

    def described(self, labels: Labels) -> dict[str, Any]:
        """The split for data.json; `sha256` is over tokens and targets, and the weights that are not 1."""
        digest = hashlib.sha256()
        for example in self.examples:
            digest.update(
                array("q", (len(example), *example.ids, *example.type_ids, *example.words)).tobytes()
            )
            digest.update(repr(example.target).encode())
            digest.update(b"" if example.weight == 1 else repr(example.weight).encode())
        return {
            "rows": self.lengths.total(),
            "examples": len(self.examples),
            "tokens": sum(map(len, self.examples)),
            "overlong": self.overlong,
            "left_out": self.left_out,
            "lost_words": self.lost_words,
            "labels": label_counts([example.target for example in self.examples], labels),
            "sha256": digest.hexdigest(),
        }


@dataclass(frozen=True)
class SequenceData:
    """Examples of the three splits; `parts` and `summary` as in `ptune.training.work.TaskData`."""

    labels: Labels
    splits: Mapping[str, SequenceSplit]
    parts: tuple[int, ...]
    summary: dict[str, Any]

    @property
    def train(self) -> Sequence[SequenceExample]:
        return self.splits["train"].examples

    @property
    def validation(self) -> Sequence[SequenceExample]:
        return self.splits["validation"].examples


def label_counts(targets: Sequence[Target], labels: Labels) -> dict[str, int]:
    """Number of examples, or words, with each label, in the labels' order; empty for a regression."""
    if labels.problem == "regression":
        return {}
    counts = Counter(
        index for target in targets for index in (target if isinstance(target, tuple) else (target,))
    )
    return {name: counts[index] for index, name in enumerate(labels.names)}


def encoded(splits: LabelSplits, data: Data, task: TextTask, codec: SequenceCodec) -> SequenceData:
    """Encodes the rows. Prints how many are too long.

    Raises: DataError if rows are too long and the recipe forbids that, or a split is left empty.
    """
    assert splits.labels is not None
    limit = codec.limit(task.max_length)
    made = {split: SequenceSplit() for split in SPLITS}
    with Progress("tokenising", sum(map(len, splits.rows.values())), unit="rows") as progress:
        for name, split in made.items():
            for placed in splits.rows[name]:
                _add(split, placed, splits.labels, task, codec, training=name == "train")
                progress.advance()
    refuse_overlong(made, task.on_overlong, limit, "are longer than")
    summary: dict[str, Any] = {
        "files": [{"split": split, **file.described()} for split, file in splits.files],
        "validation_share": None if data.validation else data.validation_share,
        "longest_tokens": limit,
        "on_overlong": task.on_overlong,
        "labels": list(splits.labels.names),
        "problem": splits.labels.problem,
        **{name: split.described(splits.labels) for name, split in made.items()},
    }
    for line in (line for file in summary["files"] for line in told(file)):
        say(line)
    for name, split in made.items():
        if split.overlong:
            over = f"{split.overlong} of {split.lengths.total()} rows are longer than {limit} tokens"
            say(f"{name}: {over} ({task.on_overlong})")
    parts = _parts(splits, made["train"])
    check_weights(data, parts)
    return SequenceData(splits.labels, made, parts, summary)


def example_of(
    row: LabelledRow,
    labels: Labels,
    codec: SequenceCodec,
    max_length: int,
    step_separator: str | None = None,
) -> tuple[SequenceExample, int]:
    """Encodes a row; returns its example, and the number of tokens before cutting. step_separator: None where no steps are judged."""
    if labels.problem != "tags":
        text, pair = row.input if isinstance(row.input, tuple) else (row.input, None)
        encoding = codec.encode(text, pair, max_length)
        return SequenceExample(encoding.ids, encoding.type_ids, row.label), encoding.length
    assert isinstance(row.label, tuple)
    if step_separator is None:
        words = codec.encode_words(row.input, max_length)
    else:
        prompt, *steps = row.input
        words = codec.encode_steps(prompt, steps, step_separator, max_length)
    kept = [(place, tag) for place, tag in zip(words.first, row.label, strict=True) if place is not None]
    places, tags = tuple(place for place, _ in kept), tuple(tag for _, tag in kept)
    return SequenceExample(words.ids, words.type_ids, tags, places), words.length


def _add(
    split: SequenceSplit,
    placed: Placed,
    labels: Labels,
    task: TextTask,
    codec: SequenceCodec,
    *,
    training: bool,
) -> None:
    steps = task if isinstance(task, ProcessReward) else None
    separator = None if steps is None else steps.step_separator
    example, length = example_of(placed.row, labels, codec, task.max_length, separator)
    example = replace(example, weight=placed.row.weight) if training else example
    too_long = length > len(example)
    split.count(length, placed.row.place, too_long=too_long)
    if labels.problem == "tags":
        assert isinstance(placed.row.label, tuple)
        lost = len(placed.row.label) - len(example.words)
        split.lost_words += lost
        if training and steps is not None and steps.train_on_last_step_only:
            example = _last_step(example, cut=lost > 0)
    if (too_long and task.on_overlong == "drop") or (labels.problem == "tags" and not example.words):
        split.left_out += 1
        return
    split.examples.append(example)
    split.rows.append(placed)


def _last_step(example: SequenceExample, *, cut: bool) -> SequenceExample:
    """The example with its last step as the only one that is judged; with none where that was cut off."""
    assert isinstance(example.target, tuple)
    kept = slice(0, 0) if cut else slice(-1, None)
    return replace(example, target=example.target[kept], words=example.words[kept])


def _parts(splits: LabelSplits, train: SequenceSplit) -> tuple[int, ...]:
    """Number of training examples from each of the recipe's files."""
    files = [file for split, file in splits.files if split == "train"]
    return tuple(sum(placed.file is file for placed in train.rows) for file in files)
