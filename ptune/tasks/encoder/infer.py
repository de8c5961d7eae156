"""Texts and images -> the encoder's engine -> labels, tags. Torch-free; the server uses the same pieces."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

import numpy as np

from ptune.codecs.labels import Labels
from ptune.codecs.sequence import SequenceCodec
from ptune.codecs.words import split
from ptune.engine.encoder.batch import Item
from ptune.engine.encoder.engine import EncoderEngine
from ptune.engine.onnx_graph import Array
from ptune.engine.options import BatchKeywords, BatchOptions
from ptune.errors import FormatError, RequestError
from ptune.formats.bundle import AdapterRecord, Bundle

if TYPE_CHECKING:
    from PIL.Image import Image

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Classification:
    """What a classifier says of one text or image."""

    label: str  # the likeliest; of several labels that may fit together the likeliest, too; of a regression its name
    scores: dict[str, float]  # probability of each label, likeliest first; of a regression its numbers
    logits: tuple[float, ...]  # in the order of the adapter's labels


@dataclass(frozen=True, slots=True)
class Entity:
    """A stretch of a text that belongs together: characters begin <= i < end."""

    label: str  # without the B- or I- of its tags
    begin: int
    end: int
    text: str
    score: float  # mean probability of its words' tags


@dataclass(frozen=True, slots=True)
class Encoded:
    """What the encoder is given of one input."""

    inputs: dict[str, Array]  # of an `Item`
    first: tuple[int, ...] | None = (
        None  # of words: which token each of those begins with that were not cut off
    )
    length: int = 0  # tokens before it was cut


def encode(one: Any, record: AdapterRecord, codec: SequenceCodec | None) -> Encoded:
    """A text, two texts, words (of a tagger), or an image (its bytes or a PIL image), as an adapter takes it.

    Raises: RequestError where it is of the wrong kind; DataError for an image that cannot be read.
    """
    if record.preprocessing is not None:
        return Encoded({"pixel_values": _pixels(one, record)})
    assert codec is not None
    if record.problem == "tags":
        if isinstance(one, str):
            one = [one[begin:end] for begin, end in split(one)]
        words = codec.encode_words(_texts(one), max_length=record.max_length)
        first = tuple(token for token in words.first if token is not None)
        return Encoded(_arrays(words.ids, words.type_ids), first, words.length)
    if isinstance(one, str):
        one = (one,)
    text, *pair = _texts(one)
    if len(pair) > 1:
        raise RequestError(f"{len(one)} texts where one, or a pair, is expected", param="input")
    found = codec.encode(text, pair[0] if pair else None, max_length=record.max_length)
    return Encoded(_arrays(found.ids, found.type_ids), length=found.length)


def _texts(one: Any) -> Sequence[str]:
    if not isinstance(one, Sequence) or not all(isinstance(text, str) for text in one):
        raise RequestError(f"a text is expected, not {type(one).__name__}", param="input")
    if not one:
        raise RequestError("there is nothing to tag: no words", param="input")
    return one


def _arrays(ids: Sequence[int], type_ids: Sequence[int]) -> dict[str, Array]:
    return {"input_ids": np.array(ids, np.int64), "token_type_ids": np.array(type_ids, np.int64)}


def _pixels(one: Any, record: AdapterRecord) -> Array:
    from ptune.codecs.image import Preprocessing, open_image

    image: Image = open_image(one) if isinstance(one, bytes | str | Path) else one
    return Preprocessing.model_validate(record.preprocessing)(image)


class EncoderModel:
    """A bundle as a library: `ptune.load("bundles/x").classify(["What a day!"], adapter="x")`."""

    def __init__(self, engine: EncoderEngine, codec: SequenceCodec | None) -> None:
        self.engine = engine
        self._codec = codec

    @property
    def codec(self) -> SequenceCodec:
        """What makes tokens of texts. Raises: FormatError where the encoder sees images."""
        if self._codec is None:
            raise FormatError(f"{self.engine.bundle.folder} is an encoder of images: it reads no texts")
        return self._codec

    @property
    def adapters(self) -> Mapping[str, AdapterRecord]:
        """The adapters that are served."""
        return {name: self.engine.record(name) for name in self.engine.adapters}

    def classify(self, inputs: Sequence[Any], adapter: str) -> list[Classification]:
        """Labels texts, pairs of texts, or images (bytes, paths or PIL images), all in flight at once.

        Raises: RequestError for an unknown adapter, one that tags, or an input that cannot be encoded; DataError.
        """
        record = self.require_labels(adapter)
        return [classification(one, record) for one in self.logits(inputs, adapter)]

    def tag(self, texts: Sequence[str], adapter: str) -> list[list[Entity]]:
        """Finds the entities in texts. Raises: RequestError for an unknown adapter, or one that does not tag."""
        record = self.require_tags(adapter)
        found: list[list[Entity]] = [[] for _ in texts]
        asked = [(index, text) for index, text in enumerate(texts) if split(text)]
        for (index, text), one in zip(asked, self.logits([text for _, text in asked], adapter), strict=True):
            found[index] = entities(text, one, record)
        return found

    def require_labels(self, adapter: str) -> AdapterRecord:
        """The record of an adapter that classifies. Raises: RequestError where it does not."""
        record = self.engine.record(adapter)
        if record.problem == "tags":
            raise RequestError(f"{adapter!r} tags words: use tag, not classify", param="model")
        if not record.labels:
            raise RequestError(
                f"{adapter!r} has no labels, its task is {record.task}: use embed, rerank or recommend",
                param="model",
            )
        return record

    def require_tags(self, adapter: str) -> AdapterRecord:
        """The record of an adapter that tags. Raises: RequestError where it does not."""
        record = self.engine.record(adapter)
        if record.problem != "tags":
            raise RequestError(f"{adapter!r} classifies: use classify, not tag", param="model")
        return record

    def logits(self, inputs: Sequence[Any], adapter: str) -> list[Array]:
        """Logits [labels] of each input; of a tagger's [words, labels], of the words that were not cut off.

        A tagger takes texts or tuples of words. Raises: RequestError, DataError, as `classify`.
        """
        record = self.engine.record(adapter)
        encoded = [encode(one, record, self._codec) for one in inputs]
        found = self.engine.logits([Item(one.inputs, adapter) for one in encoded])
        return [_of_words(logits, one) for logits, one in zip(found, encoded, strict=True)]

    def submit(self, one: Any, adapter: str) -> Future[Any]:
        """Queues one input; its future gives a Classification or, under a tagger, the list of Entity.

        Cancelling it takes it out of the queue. Raises: RequestError, as `EncoderEngine.submit`; DataError.
        """
        record = self.engine.record(adapter)
        encoded = encode(one, record, self._codec)
        logits = self.engine.submit(Item(encoded.inputs, adapter))
        if record.problem == "tags":
            return _then(logits, lambda found: entities(one, _of_words(found, encoded), record))
        return _then(logits, lambda found: classification(found, record))

    def close(self) -> None:
        """Ends the engine; what is on its way is cancelled."""
        self.engine.close()


def load(
    path: str | Path,
    options: BatchOptions = BatchOptions(),
    *,
    replay_golden: bool = True,
    **keywords: Unpack[BatchKeywords],
) -> EncoderModel:
    """Opens an encoder's bundle for use. keywords: options that replace those of `options`.

    Raises: FormatError, AdapterError, UsageError, ParityError, as `EncoderEngine.open`.
    """
    bundle = Bundle.open(path)
    bundle.check_files(bundle.manifest.codec)
    codec = SequenceCodec.open(bundle.codec_path) if bundle.encoder.modality == "text" else None
    engine = EncoderEngine.open(bundle, options, replay_golden=replay_golden, **keywords)
    return EncoderModel(engine, codec)


def classification(logits: Array, record: AdapterRecord) -> Classification:
    """Logits [labels] in words."""
    scores = _labels(record).scores(logits)
    order = np.argsort(-scores, kind="stable").tolist()
    named = {record.labels[index]: float(scores[index]) for index in order}
    return Classification(next(iter(named)), named, tuple(map(float, logits)))


def entities(text: str, logits: Array, record: AdapterRecord) -> list[Entity]:
    """Logits [words, labels] of a text's words as the entities that they spell.

    An entity is a run of words of one type; B- begins a new one, and so does I- after another type, as seqeval and
    conlleval count them. Words that were cut off are in none.
    """
    scores = _labels(record).scores(logits)
    best = scores.argmax(-1)
    found: list[Entity] = []
    begun: list[tuple[int, int, float]] = []  # begin, end, probability of each word of the open entity
    open_type = ""

    def close() -> None:
        if begun:
            begin, end = begun[0][0], begun[-1][1]
            score = sum(word[2] for word in begun) / len(begun)
            found.append(Entity(open_type, begin, end, text[begin:end], score))
            begun.clear()

    for (begin, end), label, row in zip(split(text), best, scores, strict=False):
        mark, _, kind = record.labels[label].partition("-")
        if mark == "O" or mark == "B" or kind != open_type:
            close()
        open_type = "" if mark == "O" else kind
        if mark != "O":
            begun.append((begin, end, float(row[label])))
    close()
    return found


def _labels(record: AdapterRecord) -> Labels:
    if not record.problem:
        raise FormatError(
            f"adapter {record.name!r} does not say what its labels mean: its record has no problem"
        )
    return Labels(record.labels, record.problem)


def _of_words(logits: Array, encoded: Encoded) -> Array:
    return logits if encoded.first is None else logits[list(encoded.first)]


def _then(before: Future[Array], change: Callable[[Array], Answer]) -> Future[Answer]:
    """A future of what becomes of another one's result; cancelling it cancels the other."""
    after: Future[Answer] = Future()

    def done(_: Future[Array]) -> None:
        if before.cancelled():
            after.cancel()
            after.set_running_or_notify_cancel()
        elif after.set_running_or_notify_cancel():
            try:
                after.set_result(change(before.result()))
            except BaseException as error:
                after.set_exception(error)

    after.add_done_callback(lambda _: before.cancel())  # of a finished one this does nothing
    before.add_done_callback(done)
    return after
