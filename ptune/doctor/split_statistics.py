"""Statistics of a split: about 40 bytes per example, without texts, so that data may be larger than memory."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ptune.codecs.chat import Example
from ptune.data.shapes.conversations import Askable, Document, Preferred
from ptune.doctor.finding import Place
from ptune.doctor.rows import Row
from ptune.doctor.verdicts import Verdicts

MOST_LABELS = 50  # answers count as labels if there are at most so many different ones, and they are short
LONGEST_LABEL = 64  # characters
READABLE = 300  # tokens
FIRST = 50  # examples that are kept
Hashes: TypeAlias = NDArray[np.uint64]


@dataclass
class Label:
    """An answer that many rows share, with its first row."""

    place: Place
    count: int = 0


@dataclass
class Overlong:
    """Counts of examples over the length limit."""

    count: int = 0
    emptied: int = 0  # examples without a target after truncation
    lost_targets: int = 0  # targets beyond the limit
    longest: int = 0
    first: Place | None = None


@dataclass
class Ledger:
    """Statistics of one split. limit: longest example in tokens; labels: None once the answers are not labels."""

    limit: int
    tokens: int = 0
    targets: int = 0
    lengths: Counter[int] = field(default_factory=Counter)  # tokens -> examples
    overlong: Overlong = field(default_factory=Overlong)
    labels: dict[str, Label] | None = field(default_factory=dict)
    longer: int = 0  # pairs whose better answer is the longer one, in tokens
    shorter: int = 0
    verdicts: Verdicts = field(
        default_factory=Verdicts
    )  # on judged answers; of pairs, which of the two is better
    shown: Example | None = None  # the first readably short example, else the first
    first: list[tuple[Place, Example]] = field(default_factory=list)  # a few, to be shown token by token
    _texts: array[int] = field(default_factory=lambda: array("Q"))  # hash of all tokens
    _prompts: array[int] = field(default_factory=lambda: array("Q"))  # hash of tokens before the last answer
    _numbers: array[int] = field(default_factory=lambda: array("Q"))
    _files: array[int] = field(default_factory=lambda: array("I"))
    _names: dict[tuple[str, str], int] = field(default_factory=dict)  # file and unit -> index in _files

    def add(self, row: Row, desirable: bool | None = None) -> None:
        """Counts one example; desirable: the verdict on its answer, where answers are judged."""
        example, sample = row.example, row.sample
        targets = row.targets
        ids = array("I", example.ids)
        last_answer = targets.rfind(0, 0, max(targets.rfind(1), 0)) + 1
        pair = sample.conversation if isinstance(sample.conversation, Preferred) else None
        if desirable is not None:
            self.verdicts.add(_hash(ids), targets.count(1), desirable)
            self._texts.append(_hash(array("I", (*ids, desirable))))
        elif pair is not None:
            self._texts.append(_hash_of_pair(pair))
            sides = [_written(side) for side in (pair.chosen, pair.rejected)]
            self.verdicts.add(_hash_of_text("\n".join(sorted(sides))), targets.count(1), sides[0] < sides[1])
        else:
            self._texts.append(_hash(ids))
        # A text without a question has no prompt to share.
        self._prompts.append(_hash(ids[:last_answer]) if row.answers_something else self._texts[-1])
        self._numbers.append(sample.number)
        name = (sample.problems.file, sample.problems.unit)
        self._files.append(self._names.setdefault(name, len(self._names)))
        self.tokens += len(example)
        self.targets += targets.count(1)
        self.lengths[len(example)] += 1
        meant_to_be_cut = isinstance(sample.conversation, Document)
        if len(example) > self.limit and not meant_to_be_cut:
            self._count_overlong(row, targets)
        if self.labels is not None:
            self._count_label(row)
        if self.shown is None or (len(self.shown) > READABLE >= len(example)):
            self.shown = example
        if len(self.first) < FIRST:
            self.first.append((row.place, example))

    def add_rejected(self, better: Example, row: Row) -> None:
        """Counts the worse side of a pair: its length alone."""
        worse = row.example
        self.longer += better.target_count > worse.target_count
        self.shorter += better.target_count < worse.target_count
        if len(better) <= self.limit < len(worse):
            self._count_overlong(row, row.targets)

    def __len__(self) -> int:
        return len(self._texts)

    @property
    def texts(self) -> Hashes:
        """A hash of each example's tokens."""
        return np.frombuffer(self._texts, dtype=np.uint64)

    @property
    def prompts(self) -> Hashes:
        """A hash of each example's tokens before its last answer."""
        return np.frombuffer(self._prompts, dtype=np.uint64)

    def place(self, index: int) -> Place:
        """The place of an example."""
        file, unit = list(self._names)[self._files[index]]
        return Place(file, self._numbers[index], unit)

    def _count_overlong(self, row: Row, targets: bytes) -> None:
        over = self.overlong
        over.first = over.first or row.place
        over.count += 1
        over.longest = max(over.longest, len(targets))
        over.lost_targets += targets.count(1, self.limit)
        over.emptied += not targets.count(1, 1, self.limit)

    def _count_label(self, row: Row) -> None:
        assert self.labels is not None
        conversation = row.sample.conversation
        answer = "" if isinstance(conversation, Document) else conversation.answer.strip()
        answers = sum(message["role"] == "assistant" for message in row.messages)
        if not answer or len(answer) > LONGEST_LABEL or answers > 1:
            self.labels = None
            return
        self.labels.setdefault(answer, Label(row.place)).count += 1
        if len(self.labels) > MOST_LABELS:
            self.labels = None


def _hash_of_pair(pair: Preferred) -> int:
    """Of both sides, as only the better one's tokens are counted."""
    return _hash_of_text(_written(pair))


def _written(value: Preferred | Askable) -> str:
    return json.dumps(asdict(value), sort_keys=True, default=str)


def _hash_of_text(text: str) -> int:
    return _hash(array("I", text.encode("utf-32-le")))


def _hash(ids: array[int]) -> int:
    return int.from_bytes(hashlib.blake2b(ids.tobytes(), digest_size=8).digest(), "little")
