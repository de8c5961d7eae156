"""Texts and images -> the encoder's engine -> labels, tags, judged steps. Torch-free; the server uses the same functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, Unpack

import numpy as np

from ptune.codecs import steps, words
from ptune.codecs.labels import Labels
from ptune.codecs.sequence import EncodedWords, SequenceCodec
from ptune.codecs.tag_marks import entities_of
from ptune.engine.encoder.batch import Item
from ptune.engine.encoder.engine import EncoderEngine
from ptune.engine.onnx_graph import Array
from ptune.engine.options import BatchKeywords, BatchOptions
from ptune.errors import FormatError, RequestError
from ptune.formats.bundle import AdapterRecord, Bundle

Answer = TypeVar("Answer")
Tagged: TypeAlias = str | tuple[str, str]
"""A text whose words are tagged; or an answer whose steps are judged, with its prompt or without."""


@dataclass(frozen=True, slots=True)
class Classification:
    """A classifier's output for one text or image."""

    label: str  # the likeliest label, also if several may apply; for a regression, its name
    scores: dict[str, float]  # probability of each label, likeliest first; for a regression, its numbers
    logits: tuple[float, ...]  # in the order of the adapter's labels


@dataclass(frozen=True, slots=True)
class Entity:
    """A span of a text, or a step of an answer: characters begin <= i < end."""

    label: str  # without the mark of its tags, B- or I-; of a step right or wrong
    begin: int
    end: int
    text: str
    score: float  # probability of the label; of several words the mean


@dataclass(frozen=True, slots=True)
class Encoded:
    """One input, encoded for the encoder."""

    inputs: dict[str, Array]  # of an `Item`
    first: tuple[int, ...] | None = (
        None  # of words: which token each of those begins with that were not cut off; of steps, ends with
    )
    length: int = 0  # tokens before it was cut


def encode(one: Any, record: AdapterRecord, codec: SequenceCodec | None) -> Encoded:
    """Encodes a text, a pair, words (for a tagger), a prompt and an answer or its steps, or an image (bytes or a PIL image) for an adapter.

    Raises: RequestError if the input is of the wrong kind; DataError for an image that cannot be read.
    """
    if record.preprocessing is not None:
        return Encoded({"pixel_values": _pixels(one, record)})
    assert codec is not None
    if record.problem == "tags":
        found = tokens(one, record, codec)
        first = tuple(token for token in found.first if token is not None)
        return Encoded(_arrays(found.ids, found.type_ids), first, found.length)
    if isinstance(one, str):
        one = (one,)
    text, *pair = _texts(one)
    if len(pair) > 1:
        raise RequestError(f"{len(one)} texts where one, or a pair, is expected", param="input")
    encoded = codec.encode(text, pair[0] if pair else None, max_length=record.max_length)
    return Encoded(_arrays(encoded.ids, encoded.type_ids), length=encoded.length)


def tokens(one: Any, record: AdapterRecord, codec: SequenceCodec) -> EncodedWords:
    """The words of a text, or the steps of an answer after its prompt, in tokens. Raises: RequestError, as `encode`."""
    return _words(one, record, codec) if record.step_separator is None else _steps(one, record, codec)


def _words(one: Any, record: AdapterRecord, codec: SequenceCodec) -> EncodedWords:
    if isinstance(one, str):
        one = [one[begin:end] for begin, end in words.split(one)]
    return codec.encode_words(_texts(one), max_length=record.max_length)


def _steps(one: Any, record: AdapterRecord, codec: SequenceCodec) -> EncodedWords:
    assert record.step_separator is not None
    prompt, *parts = ("", one) if isinstance(one, str) else _texts(one)
    found = [part[begin:end] for part in parts for begin, end in steps.split(part, record.step_separator)]
    if not found:
        raise RequestError("there is no step to judge", param="input")
    return codec.encode_steps(prompt, found, record.step_separator, record.max_length)


def spans(text: Tagged, record: AdapterRecord) -> list[tuple[int, int]]:
    """The spans of what a tagger says something about: of a text's words, or of an answer's steps.

    Raises: RequestError if words are to be tagged and there are two texts.
    """
    if record.step_separator is not None:
        return steps.split(text if isinstance(text, str) else text[-1], record.step_separator)
    if not isinstance(text, str):
        raise RequestError(f"{record.name!r} tags words: send a text, not a pair", param="input")
    return words.split(text)


def _texts(one: Any) -> Sequence[str]:
    if not isinstance(one, Sequence) or not all(isinstance(text, str) for text in one):
        raise RequestError(f"a text is expected, not {type(one).__name__}", param="input")
    if not one:
        raise RequestError("there is nothing to tag: no words", param="input")
    return one


def _arrays(ids: Sequence[int], type_ids: Sequence[int]) -> dict[str, Array]:
    return {"input_ids": np.array(ids, np.int64), "token_type_ids": np.array(type_ids, np.int64)}


def _pixels(one: Any, record: AdapterRecord) -> Array:
    from ptune.codecs.image import Preprocessing, is_opened, open_image

    if not isinstance(one, bytes | str | Path) and not is_opened(one):
        raise RequestError(f"an image is expected, not {type(one).__name__}", param="input")
    return Preprocessing.model_validate(record.preprocessing)(open_image(one))


class EncoderModel:
    """A bundle as a library: `ptune.load("bundles/x").classify(["What a day!"], adapter="x")`."""

    def __init__(self, engine: EncoderEngine, codec: SequenceCodec | None) -> None:
        self.engine = engine
        self._codec = codec

    @property
    def codec(self) -> SequenceCodec:
        """The text codec. Raises: FormatError if this is an image encoder."""
        if self._codec is None:
            raise FormatError(f"{self.engine.bundle.folder} is an image encoder: it cannot read texts")
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

    def tag(self, texts: Sequence[Tagged], adapter: str) -> list[list[Entity]]:
        """Finds the entities in texts. Of a process reward model these are the steps of answers, each in a pair with its prompt.

        Raises: RequestError for an unknown adapter, or one that does not tag.
        """
        record = self.require_tags(adapter)
        found_entities: list[list[Entity]] = [[] for _ in texts]
        nonempty = [(index, text) for index, text in enumerate(texts) if spans(text, record)]
        for (index, text), one in zip(
            nonempty, self.logits([text for _, text in nonempty], adapter), strict=True
        ):
            found_entities[index] = entities(text, one, record)
        return found_entities

    def require_labels(self, adapter: str) -> AdapterRecord:
        """The record of an adapter that classifies. Raises: RequestError if it does not."""
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
        """The record of an adapter that tags. Raises: RequestError if it does not."""
        record = self.engine.record(adapter)
        if record.problem != "tags":
            raise RequestError(f"{adapter!r} classifies: use classify, not tag", param="model")
        return record

    def logits(self, inputs: Sequence[Any], adapter: str) -> list[Array]:
        """Logits [labels] of each input; for a tagger [words, labels], without words that were cut off.

        A tagger takes texts or tuples of words; a process reward model answers, with their prompts or without, or tuples of a
        prompt and steps, and steps are its words. Raises: RequestError, DataError, like `classify`.
        """
        record = self.engine.record(adapter)
        encoded = [encode(one, record, self._codec) for one in inputs]
        found = self.engine.logits([Item(one.inputs, adapter) for one in encoded])
        return [_of_words(logits, one) for logits, one in zip(found, encoded, strict=True)]

    def submit(self, one: Any, adapter: str, deadline_s: float | None = None) -> Future[Any]:
        """Queues one input; the future's result is a Classification or, for a tagger, a list of Entity.

        deadline_s: seconds after which it fails unless it is being computed. Cancelling the future removes the input from the queue. Raises: RequestError, like `EncoderEngine.submit`; DataError.
        """
        record = self.engine.record(adapter)
        encoded = encode(one, record, self._codec)
        logits = self.engine.submit(Item(encoded.inputs, adapter, deadline_s))
        if record.problem == "tags":
            return _then(logits, lambda found: entities(one, _of_words(found, encoded), record))
        return _then(logits, lambda found: classification(found, record))

    def close(self) -> None:
        """Closes the engine; unfinished inputs are cancelled."""
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
    """A Classification from logits [labels]."""
    scores = _labels(record).scores(logits)
    order = np.argsort(-scores, kind="stable").tolist()
    named = {record.labels[index]: float(scores[index]) for index in order}
    return Classification(next(iter(named)), named, tuple(map(float, logits)))


def entities(text: Tagged, logits: Array, record: AdapterRecord) -> list[Entity]:
    """The entities of a text, from logits [words, labels], or an answer's steps.

    An entity is a run of words of one type, as far as their tags' marks do not part it (`ptune.codecs.tag_marks`). Words that
    were cut off belong to no entity.
    """
    scores = _labels(record).scores(logits)
    if record.step_separator is not None:
        return _judged(text if isinstance(text, str) else text[-1], scores, record)
    assert isinstance(text, str)
    best = scores.argmax(-1).tolist()
    places, found = words.split(text), []
    for kind, first, last in entities_of([record.labels[label] for label in best]):
        begin, end = places[first][0], places[last][1]
        sure = [float(scores[at, best[at]]) for at in range(first, last + 1)]
        found.append(Entity(kind, begin, end, text[begin:end], sum(sure) / len(sure)))
    return found


def _judged(answer: str, scores: Array, record: AdapterRecord) -> list[Entity]:
    """The steps of an answer with the likelier label of each, from scores [steps, labels]; those that were cut off are missing."""
    return [
        Entity(record.labels[row.argmax()], begin, end, answer[begin:end], float(row.max()))
        for (begin, end), row in zip(spans(answer, record), scores, strict=False)
    ]


def _labels(record: AdapterRecord) -> Labels:
    if not record.problem:
        raise FormatError(
            f"adapter {record.name!r} does not say what its labels mean: its record has no problem"
        )
    return Labels(record.labels, record.problem)


def _of_words(logits: Array, encoded: Encoded) -> Array:
    return logits if encoded.first is None else logits[list(encoded.first)]


def _then(before: Future[Array], change: Callable[[Array], Answer]) -> Future[Answer]:
    """A future of `change` applied to another future's result; cancelling it cancels the other."""
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
