"""A folder of a teacher's labels: what it thinks likely in the place of each target of each example.

    labels.json              this file's Index: the teacher, the settings, and the SHA-256 of each shard
    labels-00000.safetensors the labels of some examples, one behind the other:
        examples  uint8   [examples, 32]   SHA-256 of each example's tokens and targets (`example_key`)
        ends      uint64  [examples]       end of each example's targets
        tokens    uint32  [targets, top]   the most likely tokens, best first
        logprobs  float32 [targets, top]   their log-probabilities, at the index's temperature
        tail      float32 [targets]        log of the mass of all other tokens; -inf where there are none

An example is found by its tokens, so that labels hold for data in any order, in parts, or split otherwise. Each shard is written
whole, and the index after it: a folder is complete at any moment, for the examples that it has.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from ptune.codecs.chat import Example
from ptune.engine.decoder.answers.distributions import Distributions
from ptune.errors import DataError, FormatError
from ptune.formats.whole_write import read_json, sha256_of, whole_file, write_json

FORMAT = 1
INDEX = "labels.json"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Teacher(_Record):
    """Whose labels they are."""

    bundle: str  # as the user named it
    base: str  # hash of its base's weights
    profile: str  # the graph that computed
    adapter: str
    files: dict[str, str] = Field(default_factory=dict)  # of the adapter: file name -> SHA-256


class Settings(_Record):
    """What the labels of one folder have in common."""

    tokenizer: str  # see `tokenizer_key`
    top: int = Field(ge=1)  # tokens that are kept for each target
    temperature: float = Field(default=1.0, gt=0)
    teacher: Teacher


class Shard(_Record):
    """One file of labels."""

    file: str
    sha256: str
    examples: int
    targets: int


class Index(_Record):
    """labels.json"""

    format: int = FORMAT
    settings: Settings
    shards: tuple[Shard, ...] = ()


class TeacherLabels:
    """An opened folder. Its arrays stay on disk and are read example by example."""

    def __init__(self, folder: Path, index: Index) -> None:
        """Raises: FormatError where a shard is missing, damaged or changed."""
        self.folder, self.settings = folder, index.settings
        self._places: dict[bytes, tuple[int, int, int]] = {}  # key -> shard, first target, end
        self._shards = [self._opened(number, shard) for number, shard in enumerate(index.shards)]

    @classmethod
    def open(cls, folder: Path) -> TeacherLabels:
        """Raises: FormatError where the folder is none of labels, or damaged."""
        return cls(folder, read_index(folder))

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, example: Example) -> bool:
        return example_key(example) in self._places

    def of(self, example: Example) -> Distributions:
        """Raises: DataError where the example has none."""
        place = self._places.get(example_key(example))
        if place is None:
            raise DataError(f"{self.folder} has no labels of an example of {len(example)} tokens")
        number, start, end = place
        shard = self._shards[number]
        return Distributions(*(shard.get_slice(name)[start:end] for name in ("tokens", "logprobs", "tail")))

    def _opened(self, number: int, shard: Shard) -> Any:
        path = self.folder / shard.file
        if not path.is_file():
            raise FormatError(f"{path} is missing: label the data again into another folder")
        if sha256_of(path) != shard.sha256:
            raise FormatError(f"{path} is damaged: it is not the file that {INDEX} names")
        try:
            opened: Any = safe_open(path, "np")
            keys, ends = opened.get_tensor("examples"), opened.get_tensor("ends").tolist()
        except SafetensorError as error:
            raise FormatError(f"{path} is damaged: {error}") from None
        for key, (start, end) in zip(keys, itertools.pairwise([0, *ends]), strict=True):
            self._places.setdefault(key.tobytes(), (number, start, end))
        return opened


class LabelWriter:
    """Adds shards to a folder, which it begins or goes on with."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        """Raises: DataError where the folder holds labels with other settings; FormatError where it is damaged."""
        self.folder = folder
        self.index = Index(settings=settings)
        self.done: set[bytes] = set()  # keys of the examples that have labels
        if (folder / INDEX).is_file():
            self.index = read_index(folder)
            self._check(settings)
            self.done = set(TeacherLabels(folder, self.index)._places)
        elif folder.exists() and any(folder.iterdir()):
            raise DataError(f"{folder} is no folder of labels: choose another --out")

    def add(self, examples: Sequence[Example], labels: Sequence[Distributions]) -> None:
        """Writes a shard whole, and the index with it."""
        number = len(self.index.shards)
        path = self.folder / f"labels-{number:05}.safetensors"
        keys = [example_key(example) for example in examples]
        ends = np.cumsum([len(label.tail) for label in labels], dtype=np.uint64)
        arrays = {
            "examples": np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 32),
            "ends": ends,
            "tokens": np.concatenate([label.tokens for label in labels]),
            "logprobs": np.concatenate([label.logprobs for label in labels]),
            "tail": np.concatenate([label.tail for label in labels]),
        }
        with whole_file(path) as part:
            save_file(arrays, part)
        shard = Shard(file=path.name, sha256=sha256_of(path), examples=len(examples), targets=int(ends[-1]))
        self.index = self.index.model_copy(update={"shards": (*self.index.shards, shard)})
        write_json(self.folder / INDEX, self.index.model_dump(mode="json"))
        self.done.update(keys)

    def _check(self, settings: Settings) -> None:
        before = self.index.settings
        for name in ("tokenizer", "top", "temperature"):
            if (old := getattr(before, name)) != (new := getattr(settings, name)):
                raise DataError(
                    f"{self.folder} was begun with another {name} ({old}, now {new}): choose another --out"
                )
        if before.teacher.model_copy(update={"bundle": ""}) != settings.teacher.model_copy(
            update={"bundle": ""}
        ):
            raise DataError(
                f"{self.folder} was begun with another teacher ({before.teacher.adapter} of {before.teacher.bundle}): choose"
                " another --out"
            )


def read_index(folder: Path) -> Index:
    """Raises: FormatError where there is no index of this format."""
    if not (folder / INDEX).is_file():
        raise FormatError(f"{folder} holds no labels of a teacher: make them with ptune label")
    try:
        index = Index.model_validate(read_json(folder / INDEX))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise FormatError(f"{folder / INDEX} is damaged: {place}: {first['msg']}") from None
    if index.format != FORMAT:
        raise FormatError(f"{folder / INDEX} has format {index.format}; this ptune reads {FORMAT}")
    return index


def example_key(example: Example) -> bytes:
    """SHA-256 of an example's tokens (int64, little-endian) and targets (a byte each): 32 bytes."""
    return hashlib.sha256(array("q", example.ids).tobytes() + bytes(example.targets)).digest()


def tokenizer_key(tokenizer: Tokenizer) -> str:
    """SHA-256 of which id stands for which token, added ones included."""
    known = sorted(tokenizer.get_vocab(with_added_tokens=True).items())
    return hashlib.sha256(json.dumps(known, ensure_ascii=False).encode()).hexdigest()


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """Tokens from 0 to the last one that the tokenizer knows; a model may have rows for more."""
    return 1 + max(tokenizer.get_vocab(with_added_tokens=True).values())


def unlabelled(examples: Iterable[Example], done: set[bytes]) -> Iterator[Example]:
    """The examples that have no labels yet, each once."""
    seen = set(done)
    for example in examples:
        if (key := example_key(example)) not in seen:
            seen.add(key)
            yield example
