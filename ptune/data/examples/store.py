"""Examples on disk: written in sequence, memory-mapped for reading in any order.

A split has six files, all little-endian:
  tokens            uint32 each; the highest bit says that the token is a target
  ends              uint64, one per example: its end, counted in tokens
  conversations     JSON, one per example that has a question and was not cut
  conversation_ends uint64, one per conversation: its end, counted in bytes
  labels            uint8, one per example where answers are judged: 1 if it is desirable, else 0
  weights           float64, one per example: how often it counts
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar, overload

import numpy as np
import numpy.typing as npt

from ptune.codecs.chat import Example
from ptune.data.shapes.conversations import Askable, as_json, from_json
from ptune.formats.whole_write import disk_errors

T = TypeVar("T")
NAMES = ("tokens", "ends", "conversations", "conversation_ends", "labels", "weights")
_TARGET = 31  # the bit


class Records(Sequence[T], Generic[T]):
    """Records of different length in a mapped file; slicing reads nothing."""

    def __init__(
        self,
        data: npt.NDArray[Any],
        ends: npt.NDArray[np.uint64],
        decode: Callable[[npt.NDArray[Any], int], T],
        places: range,
    ) -> None:
        self._data, self._ends, self._decode, self._places = data, ends, decode, places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Records[T]: ...
    def __getitem__(self, index: int | slice) -> T | Records[T]:
        if isinstance(index, slice):
            return Records(self._data, self._ends, self._decode, self._places[index])
        place = self._places[index]
        start = int(self._ends[place - 1]) if place else 0
        return self._decode(self._data[start : int(self._ends[place])], place)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Lengths of the records, [records]; in tokens for examples."""
        places = np.arange(self._places.start, self._places.stop, self._places.step)
        starts = np.concatenate([np.zeros(1, self._ends.dtype), self._ends[:-1]])
        lengths: npt.NDArray[np.int64] = (self._ends[places] - starts[places]).astype(np.int64)
        return lengths


Examples = Records[Example]


class Writer:
    """Writes one split into a folder, and counts examples and tokens."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._files = {name: (folder / name).open("wb") for name in NAMES}
        self._conversation_bytes = 0
        self._digest = hashlib.sha256()
        self.examples = self.tokens = self.targets = self.conversations = 0

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            file.close()

    def add(self, example: Example, desirable: bool | None = None) -> None:
        """Appends an example; desirable: whether its answer is, where answers are judged."""
        targets = np.array(example.targets, "<u4") << _TARGET
        self._files["tokens"].write((np.array(example.ids, "<u4") | targets).tobytes())
        label = b"" if desirable is None else bytes([desirable])
        self._files["labels"].write(label)
        weight = np.array(example.weight, "<f8").tobytes()
        self._files["weights"].write(weight)
        told = b"" if example.weight == 1 else weight
        self._digest.update(array("q", example.ids).tobytes() + bytes(example.targets) + label + told)
        self.examples += 1
        self.tokens += len(example)
        self.targets += example.target_count
        self._files["ends"].write(self.tokens.to_bytes(8, "little"))

    def add_conversation(self, conversation: Askable) -> None:
        """Appends a conversation."""
        self._conversation_bytes += self._files["conversations"].write(as_json(conversation).encode())
        self._files["conversation_ends"].write(self._conversation_bytes.to_bytes(8, "little"))
        self.conversations += 1

    @property
    def sha256(self) -> str:
        """SHA-256 over the tokens and targets, and the weights that are not 1."""
        return self._digest.hexdigest()


def examples_in(folder: Path) -> Examples:
    """Opens the examples in a folder."""
    ends = _mapped(folder / "ends", "<u8")
    decode = functools.partial(_example, weights=_mapped(folder / "weights", "<f8"))
    return Records(_mapped(folder / "tokens", "<u4"), ends, decode, range(len(ends)))


def conversations_in(folder: Path) -> Records[Askable]:
    """Opens the conversations in a folder."""
    ends = _mapped(folder / "conversation_ends", "<u8")
    return Records(_mapped(folder / "conversations", "u1"), ends, _conversation, range(len(ends)))


def labels_in(folder: Path) -> npt.NDArray[np.bool_]:
    """Whether each example in a folder is desirable, [examples]; empty where nothing is judged."""
    return _mapped(folder / "labels", "u1").astype(bool)


def spooled(examples: Iterable[Example]) -> Examples:
    """Keeps examples that are made once and read often on disk while they are used."""
    with temporary_folder() as folder:
        with Writer(folder / "spooled") as writer:
            for example in examples:
                writer.add(example)
        return examples_in(folder / "spooled")


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yields a folder and removes it afterwards; mapped files stay readable while in use."""
    with tempfile.TemporaryDirectory(prefix="ptune-") as folder, disk_errors(Path(folder)):
        yield Path(folder)


def _mapped(path: Path, dtype: str) -> npt.NDArray[Any]:
    empty = path.stat().st_size == 0  # empty files cannot be mapped
    return np.zeros(0, dtype) if empty else np.memmap(path, dtype, mode="r")


def _example(words: npt.NDArray[np.uint32], place: int, weights: npt.NDArray[np.float64]) -> Example:
    ids, targets = words & np.uint32((1 << _TARGET) - 1), words >> np.uint32(_TARGET)
    return Example(tuple(ids.tolist()), tuple(targets.astype(bool).tolist()), weight=float(weights[place]))


def _conversation(text: npt.NDArray[np.uint8], _place: int) -> Askable:
    return from_json(text.tobytes().decode())
