"""An encoder without a model, whose answers tell who was asked what. For tests of the server.

Of texts: `sentiment` (single), `topics` (multi), `stars` (regression) and `names` (tags). Of images: `colours`, and
`brightness`. Run as a script it serves itself, as `ptune serve` would serve a bundle.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ptune.codecs.labels import Labels
from ptune.codecs.words import split
from ptune.engine.adapters.registry import AdapterStats
from ptune.engine.metrics import EngineMetrics
from ptune.errors import PtuneError, RequestError
from ptune.formats.bundle import AdapterRecord
from ptune.tasks.encoder.infer import Classification, Entity

TEXTS = {
    "sentiment": AdapterRecord(
        name="sentiment", task="text-classification", labels=("negative", "neutral", "positive"), problem="single", max_length=16
    ),
    "topics": AdapterRecord(name="topics", task="text-classification", labels=("sea", "land"), problem="multi"),
    "stars": AdapterRecord(name="stars", task="text-classification", labels=("stars",), problem="regression"),
    "names": AdapterRecord(
        name="names", task="token-classification", labels=("O", "B-PER", "I-PER", "B-LOC", "I-LOC"), problem="tags"
    ),
}  # fmt: skip
SIGHT = {"size": [32, 32]}  # what an adapter of images says of them, and no other does
IMAGES = {
    "colours": AdapterRecord(
        name="colours", task="image-classification", labels=("red", "green", "blue"), problem="single", preprocessing=SIGHT
    ),
    "brightness": AdapterRecord(
        name="brightness", task="image-classification", labels=("dark", "bright"), problem="single", preprocessing=SIGHT
    ),
}  # fmt: skip
GOOD, BAD = ("good", "love", "great", "wonderful"), ("bad", "hate", "awful", "dull")
PLACES = ("Paris", "Rome", "London")


@dataclass(frozen=True)
class Words:
    """What stands for a codec's encoding: one token a word."""

    ids: tuple[int, ...]
    length: int

    @property
    def truncated(self) -> bool:
        return self.length > len(self.ids)


class WordCodec:
    def encode(self, text: str, pair: str | None = None, max_length: int | None = None) -> Words:
        return self.encode_words(f"{text} {pair or ''}".split(), max_length)

    def encode_words(self, words: list[str], max_length: int | None = None) -> Words:
        return Words(tuple(range(len(words)))[:max_length], len(words))


@dataclass
class FakeEncoderEngine:
    """Its fields are knobs for tests."""

    records: Mapping[str, AdapterRecord]
    delay_s: float = 0.0
    max_waiting: int = 1000
    failure: str | None = None  # "submit": raises on submission; "pass": the future fails
    go_on: threading.Event = field(default_factory=threading.Event)  # cleared: nothing is answered
    asked: list[tuple[Any, str]] = field(default_factory=list)
    deadlines_s: list[float | None] = field(default_factory=list)  # of those that were asked
    cancelled: int = 0
    waiting: int = 0
    metrics: EngineMetrics = field(default_factory=EngineMetrics)
    counting: Any = field(default_factory=threading.Lock)  # `waiting` is changed by many threads

    def __post_init__(self) -> None:
        self.go_on.set()
        base = SimpleNamespace(hash="sha256:" + "0123456789ab" * 5, source="tiny_encoder")
        digests = {name: "sha256:" + f"{index + 10:x}" * 64 for index, name in enumerate(self.records)}
        manifest = SimpleNamespace(
            created="2025-06-01T12:00:00+00:00", base=base, adapters=digests, aliases={}, task="encoder"
        )
        self.bundle = SimpleNamespace(folder=Path("/bundles/many"), manifest=manifest)
        images = any(record.task == "image-classification" for record in self.records.values())
        self.signature = SimpleNamespace(modality="image" if images else "text")
        self.context = 0 if images else 512
        self.adapters = list(self.records)

    def record(self, name: str) -> AdapterRecord:
        return self.records[name]

    def adapter_stats(self) -> AdapterStats:
        return AdapterStats(70, None, 2, 5, 3, 0.5)

    def stats(self) -> SimpleNamespace:
        return SimpleNamespace(running=0, waiting=self.waiting, passes=3, rows=12, tokens=70)


class FakeEncoderModel:
    """What the server needs of `ptune.tasks.encoder.infer.EncoderModel`."""

    def __init__(self, records: Mapping[str, AdapterRecord] = TEXTS) -> None:
        self.engine = FakeEncoderEngine(records)
        self.codec = WordCodec()

    @property
    def adapters(self) -> Mapping[str, AdapterRecord]:
        return self.engine.records

    def submit(self, one: Any, adapter: str, deadline_s: float | None = None) -> Future[Any]:
        engine = self.engine
        if engine.failure == "submit":
            raise ZeroDivisionError(f"a defect that quotes {one!r}")
        if engine.waiting >= engine.max_waiting:
            raise RequestError("too many are waiting; try again later", code="queue_full", status=429)
        engine.asked.append((one, adapter))
        engine.deadlines_s.append(deadline_s)
        with engine.counting:
            engine.waiting += 1
        future: Future[Any] = Future()
        threading.Thread(target=self._run, args=(future, one, adapter), daemon=True).start()
        return future

    def close(self) -> None:
        self.engine.go_on.set()

    def _run(self, future: Future[Any], one: Any, adapter: str) -> None:
        time.sleep(self.engine.delay_s)
        while not self.engine.go_on.wait(0.01) and not future.cancelled():
            pass
        with self.engine.counting:
            self.engine.waiting -= 1
        if not future.set_running_or_notify_cancel():
            self.engine.cancelled += 1
        elif self.engine.failure == "pass":
            future.set_exception(PtuneError("Traceback: secret detail"))
        else:
            record = self.engine.records[adapter]
            future.set_result(_entities(one) if record.problem == "tags" else _classified(one, record))


def _classified(one: Any, record: AdapterRecord) -> Classification:
    logits = np.array(_logits(one, record.name), np.float32)
    assert record.problem != ""
    scores = Labels(record.labels, record.problem).scores(logits)
    order = sorted(range(len(logits)), key=lambda index: (-scores[index], index))
    by_label = {record.labels[index]: float(scores[index]) for index in order}
    return Classification(next(iter(by_label)), by_label, tuple(map(float, logits)))


def _logits(one: Any, name: str) -> list[float]:
    if name in IMAGES:
        red, green, blue = np.asarray(one).reshape(-1, 3).mean(axis=0) / 64
        return [red, green, blue] if name == "colours" else [0.0, (red + green + blue) / 2 - 3]
    text = (one if isinstance(one, str) else " ".join(one)).lower()
    mood = sum(text.count(word) for word in GOOD) - sum(text.count(word) for word in BAD)
    if name == "stars":
        return [3.0 + mood]
    if name == "topics":
        return [2.0 if "sea" in text else -2.0, 2.0 if "hill" in text else -2.0]
    return [-2.0 * mood, 0.5, 2.0 * mood]


def _entities(text: str) -> list[Entity]:
    """Capitalised words, those that stand together as one; the first word of a text is none unless it is a place."""
    found: list[Entity] = []
    for number, (begin, end) in enumerate(split(text)):
        word = text[begin:end]
        if not word[:1].isupper() or (number == 0 and word not in PLACES):
            continue
        label = "LOC" if word in PLACES else "PER"
        if found and found[-1].label == label and text[found[-1].end : begin] == " ":
            begin = found.pop().begin
        found.append(Entity(label, begin, end, text[begin:end], 0.9))
    return found
