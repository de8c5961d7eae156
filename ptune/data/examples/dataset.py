"""Makes tokenised examples of a recipe's files: reads rows, recognises shapes, splits, encodes, cuts, stores on disk."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptune.codecs.album import Album
from ptune.codecs.chat import ChatCodec
from ptune.codecs.vision import Vision
from ptune.config.chat import Chat
from ptune.config.preference import Preference
from ptune.config.recipe import Data
from ptune.config.translation import Translation
from ptune.config.unpaired_preference import UnpairedPreference
from ptune.data.examiner import Examiner
from ptune.data.examples.overlong import check_weights
from ptune.data.examples.split import Encoding, Split, refuse_overlong
from ptune.data.examples.store import (
    Examples,
    Writer,
    conversations_in,
    examples_in,
    labels_in,
    temporary_folder,
)
from ptune.data.images.in_chats import Pictures, images_in
from ptune.data.read import DataFile, open_file
from ptune.data.shapes.by_task import shapes_of
from ptune.data.shapes.conversations import Askable
from ptune.data.shapes.row_weights import check_named, told
from ptune.data.shapes.translations import in_columns
from ptune.data.source import Source, hold_out, lowest_of_prompts, open_source
from ptune.errors import DataError
from ptune.formats import cache
from ptune.formats.whole_write import whole_folder
from ptune.progress import Progress, say

_STORE_FORMAT = 3
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Dataset:
    """Examples of the three splits; `test` is empty without test files. Each has a target that can be predicted. They are
    memory-mapped files, read on access.

    The conversations belong to the examples, to show answers side by side and to use as examples in a prompt; raw
    text and conversations whose example was cut are left out; only the first ten thousand training ones are kept.
    parts: number of training examples from each of the recipe's `files`, in order.
    labels: split -> whether each of its examples is desirable, where answers are judged; else empty.
    images: [images, height, width, 3] of the conversations, in the order of their rows; None if the model sees none.
    summary: counts of rows and examples, in JSON types; equal for equal files, recipe and codec.
    """

    train: Examples
    validation: Examples
    test: Examples
    train_conversations: Sequence[Askable]
    validation_conversations: Sequence[Askable]
    test_conversations: Sequence[Askable]
    parts: tuple[int, ...]
    summary: dict[str, Any]
    labels: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    images: Album | None = None


def load(data: Data, task: Chat, codec: ChatCodec, seed: int, examiner: Examiner | None = None) -> Dataset:
    """Reads a recipe's data and encodes it with the codec that will also serve. Prints the recognised shapes.

    Memory grows only by a few numbers per row. Large sets stay encoded in a cache (see `ptune.formats.cache`) until
    something changes; with an examiner everything is read again.
    Without validation files, `validation_share` of the rows in `files` is held out (see `hold_out`).

    Raises: DataError that names file and line of unusable rows, all problems of a file at once.
    """
    if not data.files:
        raise DataError(
            "no training data: pass --data.files PATH (JSONL, JSON, CSV, Parquet, Arrow, text or hub:OWNER/NAME),"
            " for example --data.files sample:devils_dictionary.train"
        )
    named = {"train": data.files, "validation": data.validation, "test": data.test}
    files = [(split, in_columns(open_file(path), task)) for split, paths in named.items() for path in paths]
    made = _made(_Making(files, data, seed, Encoding(codec, task, examiner)))
    check_weights(data, made.parts)
    return made


def _made(making: _Making) -> Dataset:
    """Makes the set, or takes it from the cache."""
    sees = making.encoding.codec.vision is not None  # files of images may change behind those that name them
    if sees or sum(file.size_bytes for _, file in making.files) < cache.WORTH_BYTES:
        return making.not_kept()
    with cache.place_for(making.key()) as place:
        if place is None:
            return making.not_kept()
        record = cache.sealed(place) if making.encoding.examiner is None else None
        if record is None:
            with whole_folder(place) as part:
                record = making.into(part)
        else:
            say(f"encoded before: {place}")
            _tell(record["summary"])
        return _opened(place, record, making.encoding.codec.vision)


@dataclass(frozen=True)
class _Making:
    """The inputs of a data set."""

    files: list[tuple[str, DataFile]]  # with their splits
    data: Data
    seed: int
    encoding: Encoding

    @property
    def holds_out(self) -> bool:
        return not self.data.validation

    def key(self) -> str:
        """The set's key in the cache."""
        codec, task = self.encoding.codec, self.encoding.task
        return cache.key_of(
            {
                "format": _STORE_FORMAT,
                "code": cache.code_hash("codecs", "data"),
                "versions": {name: version(name) for name in ("tokenizers", "jinja2")},
                "files": [(split, file.path, file.sha256, file.reader.format) for split, file in self.files],
                "held_out": (self.seed, self.data.validation_share) if self.holds_out else None,
                "limit": self.data.limit,
                "task": (
                    task.train_on,
                    task.on_overlong,
                    self.encoding.limit,
                    [(shape.name, shape.columns, shape.optional) for shape in shapes_of(task)],
                ),
                "tokenizer": codec.tokenizer.to_str(),
                "template": None if codec.template is None else codec.template.source,
                "codec": (codec.special_tokens, sorted(codec.eos_ids), codec.system),
                "variables": codec.defaults.chat_template_kwargs,
            }
        )

    def not_kept(self) -> Dataset:
        """Makes the set in temporary files that end with this process."""
        with temporary_folder() as folder:
            return _opened(folder, self.into(folder), self.encoding.codec.vision)

    def into(self, folder: Path) -> dict[str, Any]:
        """Makes the set in a folder; writes and returns its record. Raises: DataError."""
        shapes = shapes_of(self.encoding.task)
        sources = [(split, open_source(file, self._ranked_for(split), shapes)) for split, file in self.files]
        for _, source in sources:
            _tell_file(source.described())
        training = {str(source.file.path): source.weights for split, source in sources if split == "train"}
        check_named(self.encoding.task.columns.named, training)
        encoding, pictures = self.encoding, None
        with contextlib.ExitStack() as stack:
            if encoding.codec.vision is not None:
                pictures = stack.enter_context(Pictures(folder, encoding.codec.vision))
                encoding = replace(encoding, pictures=pictures)
            splits = {
                name: stack.enter_context(Split(name, Writer(folder / name), encoding)) for name in SPLITS
            }
            described = self._encode(sources, splits)
        refuse_overlong(list(splits.values()))
        for split in splits.values():
            split.check()
        summary = {
            "files": described,
            "validation_share": self.data.validation_share if self.holds_out else None,
            "longest_tokens": self.encoding.limit,
            "on_overlong": self.encoding.task.on_overlong,
            **{name: split.described() for name, split in splits.items()},
            **({} if pictures is None else {"images": pictures.described()}),
        }
        _tell_splits(summary)
        return cache.seal(folder, {"summary": summary})

    def _ranked_for(self, split: str) -> int | None:
        return self.seed if split == "train" and self.holds_out else None

    def _encode(self, sources: list[tuple[str, Source]], splits: dict[str, Split]) -> list[dict[str, Any]]:
        """Fills the splits; returns the files as in data.json, with their counts in their own split.

        Raises: DataError if a file has rows that cannot be used.
        """
        training = [source for split, source in sources if split == "train"]
        share = self.data.validation_share
        together = isinstance(self.encoding.task, Translation | Preference | UnpairedPreference)
        ranks = lowest_of_prompts(training) if self.holds_out else None
        held = iter(() if ranks is None else hold_out(ranks, share, together=together))
        described, refused, total = [], [], sum(source.row_count for _, source in sources)
        with Progress("tokenising", total, unit="rows") as progress:
            for name, source in sources:
                if self.encoding.examiner is not None:
                    self.encoding.examiner.file(name, source.file.path)
                own, problems = splits[name].writer, source.file.problems()
                examples, tokens = own.examples, own.tokens
                for sample in source.samples(problems):
                    held_out = name == "train" and self.holds_out and next(held)
                    split = splits["validation"] if held_out else splits[name]
                    if split.name != "train" or self.data.limit is None or split.rows < self.data.limit:
                        split.add(sample)
                    progress.advance()
                refused.append((problems, source.row_count))
                counts = {"examples": own.examples - examples, "tokens": own.tokens - tokens}
                described.append({"split": name, **source.described(), **counts})
        for problems, row_count in refused:  # only now, so that an examiner sees all files
            problems.raise_if_any(row_count)
        return described


def _opened(folder: Path, record: dict[str, Any], vision: Vision | None) -> Dataset:
    """Opens the set in a folder."""
    summary = record["summary"]
    return Dataset(
        train=examples_in(folder / "train"),
        validation=examples_in(folder / "validation"),
        test=examples_in(folder / "test"),
        train_conversations=conversations_in(folder / "train"),
        validation_conversations=conversations_in(folder / "validation"),
        test_conversations=conversations_in(folder / "test"),
        parts=tuple(file["examples"] for file in summary["files"] if file["split"] == "train"),
        summary=summary,
        labels={name: labels_in(folder / name) for name in SPLITS},
        images=None if vision is None else images_in(folder, vision),
    )


def _tell(summary: dict[str, Any]) -> None:
    for file in summary["files"]:
        _tell_file(file)
    _tell_splits(summary)


def _tell_file(file: dict[str, Any]) -> None:
    say(f"{file['path']}: {file['shape']}, {file['rows']} rows ({file['format']})")
    if file.get("unread_columns"):
        say(f"{file['path']}: these columns are not read: {', '.join(file['unread_columns'])}")
    for line in told(file):
        say(line)


def _tell_splits(summary: dict[str, Any]) -> None:
    policy = summary["on_overlong"].replace("error", "raw text is split")  # other rows are refused
    for name in SPLITS:
        split = summary[name]
        if split["overlong"]:
            over = f"{split['overlong']} of {split['rows']} rows are longer than {summary['longest_tokens']} tokens"
            say(f"{name}: {over} ({policy})")
        if split["left_out"]:
            say(
                f"{name}: {split['left_out']} of {split['rows']} rows are left out: no target of theirs is left"
            )
