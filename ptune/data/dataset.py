"""A recipe's files as tokenised examples: read, recognised, split, encoded and cut to length."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from ptune.codecs.chat import ChatCodec, Example
from ptune.data.conversations import Completion, Conversation
from ptune.data.overlong import fit
from ptune.data.source import Sample, Source, hold_out, open_source
from ptune.errors import DataError, TemplateError
from ptune.progress import Progress, say
from ptune.recipe import Data
from ptune.tasks.chat.spec import Chat


@dataclass(frozen=True)
class Dataset:
    """Examples of the three splits; `test` is empty where no test files were given.

    The conversations are those behind the examples, for showing answers side by side and as examples in a prompt; one
    whose example had to be cut is left out.
    summary: what was read and what became of it, in JSON types; the same for the same files, recipe and codec.
    """

    train: list[Example]
    validation: list[Example]
    test: list[Example]
    train_conversations: list[Conversation | Completion]
    validation_conversations: list[Conversation | Completion]
    test_conversations: list[Conversation | Completion]
    summary: dict[str, Any]


def load(data: Data, task: Chat, codec: ChatCodec, seed: int) -> Dataset:
    """Reads a recipe's data and encodes it with the codec that will also serve. Says what was recognised.

    Without validation files, `validation_share` of the rows in `files` is held out (see `hold_out`).

    Raises: DataError that names file and line of what cannot be used, all problems of a file at once.
    """
    if not data.files:
        raise DataError(
            "no training data: pass --data.files PATH (JSONL, JSON or Parquet),"
            " for example --data.files sample:devils_dictionary.train"
        )
    files = {"train": data.files, "validation": data.validation, "test": data.test}
    sources = {split: [open_source(path) for path in paths] for split, paths in files.items()}
    for source in _flat(sources):
        say(f"{source.path}: {source.shape}, {source.row_count} rows")
    encoded = _encode(_divide(sources, data, seed), codec, task)
    _check(sources)
    limit = min(task.max_length, codec.context or task.max_length)
    if task.on_overlong == "error":
        _refuse_overlong([pair for pairs in encoded.values() for pair in pairs], limit)
    splits = {split: _fit(split, pairs, limit, task) for split, pairs in encoded.items()}
    summary = {
        "files": [{"split": split, **source.described()} for split, of in sources.items() for source in of],
        "validation_share": None if data.validation else data.validation_share,
        "longest_tokens": limit,
        "on_overlong": task.on_overlong,
        **{split: fitted.described() for split, fitted in splits.items()},
    }
    return Dataset(
        train=splits["train"].examples,
        validation=splits["validation"].examples,
        test=splits["test"].examples,
        train_conversations=splits["train"].conversations,
        validation_conversations=splits["validation"].conversations,
        test_conversations=splits["test"].conversations,
        summary=summary,
    )


@dataclass(frozen=True)
class _Split:
    """What a split's rows have become."""

    examples: list[Example]
    conversations: list[Conversation | Completion]
    overlong: int  # rows
    lost: int  # rows of which nothing is left

    def described(self) -> dict[str, Any]:
        """The split for data.json; `sha256` is over the tokens and targets."""
        digest = hashlib.sha256()
        for example in self.examples:
            digest.update(array("q", example.ids).tobytes() + bytes(example.targets))
        return {
            "examples": len(self.examples),
            "tokens": sum(map(len, self.examples)),
            "targets": sum(example.target_count for example in self.examples),
            "overlong": self.overlong,
            "left_out": self.lost,
            "sha256": digest.hexdigest(),
        }


Encoded: TypeAlias = list[tuple[Sample, Example]]


def _divide(sources: Mapping[str, list[Source]], data: Data, seed: int) -> dict[str, list[Sample]]:
    """The samples of each split."""
    samples = {split: [sample for source in of for sample in source.samples] for split, of in sources.items()}
    if len(samples["train"]) < 2:
        _check(sources)  # what is wrong with the other rows says more than that there are too few
    if not data.validation:
        samples["train"], samples["validation"] = hold_out(samples["train"], data.validation_share, seed)
    samples["train"] = samples["train"][: data.limit]
    return samples


def _encode(samples: Mapping[str, list[Sample]], codec: ChatCodec, task: Chat) -> dict[str, Encoded]:
    """Samples with their examples; those that cannot be encoded become problems of their files."""
    encoded: dict[str, Encoded] = {split: [] for split in samples}
    with Progress("tokenising", sum(map(len, samples.values())), unit="rows") as progress:
        for split, sample in ((split, sample) for split, of in samples.items() for sample in of):
            try:
                encoded[split].append((sample, sample.conversation.example(codec, task.train_on)))
            except TemplateError as error:
                sample.problems.add(sample.number, str(error))
            progress.advance()
    return encoded


def _refuse_overlong(encoded: Encoded, limit: int) -> None:
    """Raises: DataError with counts where an example is too long."""
    overlong = [(len(example), sample) for sample, example in encoded if len(example) > limit]
    if overlong:
        length, sample = max(overlong, key=lambda pair: pair[0])
        raise DataError(
            f"{len(overlong)} of {len(encoded)} examples are longer than {limit} tokens (longest {length}, {sample.place});"
            " use --task.on-overlong truncate, drop or split, or raise --task.max-length up to the model's context"
        )


def _fit(split: str, encoded: Encoded, limit: int, task: Chat) -> _Split:
    """A split cut to length; says what became of examples that are too long.

    Raises: DataError where nothing is left of it.
    """
    pieces = [fit(example, limit, task.on_overlong) for _, example in encoded]
    cut = [len(example) > limit for _, example in encoded]
    fitted = _Split(
        examples=[example for some in pieces for example in some],
        conversations=[
            sample.conversation for (sample, _), long in zip(encoded, cut, strict=True) if not long
        ],
        overlong=sum(cut),
        lost=sum(not some for some in pieces),
    )
    if encoded and not fitted.examples:
        raise DataError(
            f"no {split} example is left: all are longer than {limit} tokens ({task.on_overlong})"
        )
    if fitted.overlong:
        over = f"{fitted.overlong} of {len(encoded)} rows are longer than {limit} tokens"
        say(f"{split}: {over} ({task.on_overlong}); nothing is left of {fitted.lost}")
    return fitted


def _flat(sources: Mapping[str, list[Source]]) -> list[Source]:
    return [source for of in sources.values() for source in of]


def _check(sources: Mapping[str, list[Source]]) -> None:
    """Raises: DataError where a file has rows that cannot be used."""
    for source in _flat(sources):
        source.check()
