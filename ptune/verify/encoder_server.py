"""An encoder's last hop: a real server process, asked with texts and image files, against the engine in this process."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np

from ptune.codecs.image import Preprocessing
from ptune.codecs.sequence import SequenceCodec
from ptune.config.tasks import endpoints_of
from ptune.engine.encoder.batch import Item
from ptune.engine.encoder.engine import EncoderEngine
from ptune.engine.onnx_graph import Array
from ptune.errors import ParityError
from ptune.formats.bundle import AdapterRecord, Bundle, Hop
from ptune.tasks.encoder.infer import classification, encode, entities
from ptune.tasks.retrieval.infer import ALL_IT_READS
from ptune.verify import limits
from ptune.verify.encoder_compare import readable
from ptune.verify.encoder_torch import Inputs
from ptune.verify.probes import WITHOUT_DATA
from ptune.verify.server import TIE, Agreement, agreements, hop, post

CLASSIFY, TAG, EMBED, RERANK = "/v1/classify", "/v1/tag", "/v1/embeddings", "/v1/rerank"
_CUT = {"truncate_prompt_tokens": ALL_IT_READS}  # as `encode` cuts


@dataclass(frozen=True)
class Question:
    """A text or an image file, as a client sends it, and what the engine answers to it under an adapter."""

    adapter: AdapterRecord
    given: str | bytes
    logits: Array  # [labels]; of a tagger [words, labels]; of an adapter of vectors [width]

    @property
    def name(self) -> str:
        return self.adapter.name

    @property
    def path(self) -> str:
        return path_of(self.adapter)

    @property
    def body(self) -> dict[str, Any]:
        """The request."""
        part: Any = self.given
        if isinstance(self.given, bytes):
            uri = f"data:image/jpeg;base64,{base64.b64encode(self.given).decode()}"
            part = {"type": "image_url", "image_url": {"url": uri}}
        if self.path == RERANK:
            return {"model": self.adapter.name, "query": part, "documents": [part], **_CUT}
        options: dict[str, dict[str, Any]] = {CLASSIFY: {"use_activation": False}, EMBED: _CUT}
        return {"model": self.adapter.name, "input": [part], **options.get(self.path, {})}


def path_of(adapter: AdapterRecord) -> str:
    """The first endpoint of the adapter's task whose answers can be compared here."""
    return next(path for path in endpoints_of(adapter.task) if path in _COMPARES)


def questions(
    bundle: Bundle, engine: EncoderEngine, inputs: Sequence[Inputs], adapters: Sequence[str]
) -> list[Question]:
    """The held-out inputs, turned back into what a client would send, under every adapter."""
    codec = SequenceCodec.open(bundle.codec_path) if bundle.encoder.modality == "text" else None
    asked_of_server = []
    for adapter in map(bundle.adapter, adapters):
        given = [
            _file(one, adapter) if codec is None else _text(one, codec, n) for n, one in enumerate(inputs)
        ]
        asked = [(one, one) if path_of(adapter) == RERANK else one for one in given]
        encoded = [encode(one, adapter, codec) for one in asked]
        answers = engine.logits([Item(one.inputs, adapter.name) for one in encoded])
        for one, how, logits in zip(given, encoded, answers, strict=True):
            words = logits if how.first is None else logits[list(how.first)]
            asked_of_server.append(Question(adapter, one, words))
    return asked_of_server


def _text(one: Inputs, codec: SequenceCodec, number: int) -> str:
    """What tokens spell; one of our own texts where they spell nothing."""
    text = codec.tokenizer.decode(one["input_ids"].tolist(), skip_special_tokens=True).replace("\0", " ")
    return text if text.strip() else WITHOUT_DATA[number % len(WITHOUT_DATA)]


def _file(one: Inputs, adapter: AdapterRecord) -> bytes:
    """An image as the model sees it, as a file."""
    from PIL import Image

    seen = Preprocessing.model_validate(adapter.preprocessing)
    pixels = (np.moveaxis(one["pixel_values"], 0, -1) * seen.std + seen.mean) * 255
    held = io.BytesIO()
    Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8)).save(held, "JPEG", quality=90)
    return held.getvalue()


def served_hops(bundle: Bundle, asked: Sequence[Question], threads: int) -> dict[str, Hop]:
    """The same questions over HTTP, many at once, against the engine's own answers; a hop an adapter."""
    by_name = agreements(bundle.folder, threads, asked, _ask, _agreement)
    return {name: _hop(bundle.adapter(name), answers) for name, answers in by_name.items()}


def _hop(adapter: AdapterRecord, answers: Sequence[Agreement]) -> Hop:
    if adapter.problem == "regression":
        return hop(answers, "name", "max |Δ| of the number, or its share of it,")
    if adapter.problem == "vector":
        return hop(answers, "width", "max |Δ| of a vector's numbers", limits.MAX_ABS_VECTOR)
    return hop(answers, "entities" if adapter.problem == "tags" else "labels")


def _ask(client: httpx.Client, one: Question) -> Any:
    answer = post(client, one.path, one.body)
    return answer["results" if one.path == RERANK else "data"][0]


def _agreement(one: Question, answer: Any) -> Agreement:
    return _COMPARES[one.path](one, answer)


def _vector(one: Question, answer: Any) -> Agreement:
    """The vector, number by number."""
    served = np.array(answer["embedding"], np.float64)
    if served.shape != one.logits.shape:
        return Agreement(0, 1, 0.0)
    return Agreement(
        1, 1, float(np.abs(served - one.logits).max() / max(1.0, float(np.abs(one.logits).max())))
    )


def _ranked(one: Question, answer: Any) -> Agreement:
    """The probability that the text answers itself."""
    logit = float(one.logits[0])
    here, there = -np.logaddexp(0.0, -logit), np.log(max(float(answer["relevance_score"]), 1e-300))
    return Agreement(1, 1, abs(float(here - there)))


def _classified(one: Question, answer: Any) -> Agreement:
    """The label, or all that fit, and the numbers that a head gave."""
    adapter, served = one.adapter, np.array(answer["probs"], np.float32)
    if served.shape != one.logits.shape:
        raise ParityError(f"the server gave {served.size} numbers for {len(adapter.labels)} labels")
    problem = adapter.problem or "single"
    here, there = (readable(problem, side).astype(np.float64) for side in (one.logits, served))
    off = np.abs(here - there)
    if adapter.problem == "regression":
        off = off / np.maximum(1.0, np.abs(here))
    return Agreement(int(_same_label(one, answer)), 1, float(off.max()))


def _same_label(one: Question, answer: Any) -> bool:
    expected = classification(one.logits, one.adapter)
    if one.adapter.problem == "multi":
        sure = {
            name for name, logit in zip(one.adapter.labels, expected.logits, strict=True) if abs(logit) > TIE
        }
        fitting = {name for name, score in expected.scores.items() if score >= 0.5}
        return bool(sure & fitting == sure & set(answer["labels"]))
    return bool(answer["label"] == expected.label) or _close(one.logits)


def _close(logits: Array) -> bool:
    """Whether the two likeliest labels of a row [..., labels] can change places."""
    best = np.sort(logits, -1)[..., -2:]
    return logits.shape[-1] > 1 and bool((best[..., 1] - best[..., 0] <= TIE).any())


def _tagged(one: Question, answer: Any) -> Agreement:
    """Entities with their places and their scores; a text with none is one answer, too."""
    assert isinstance(one.given, str)
    here, there = entities(one.given, one.logits, one.adapter), answer["entities"]
    places = [(each.label, each.begin, each.end, each.text) for each in here]
    served = [(each["label"], each["begin"], each["end"], each["text"]) for each in there]
    if places != served:
        return Agreement(int(_close(one.logits)), 1, 0.0)
    off = [abs(np.log(each.score) - np.log(other["score"])) for each, other in zip(here, there, strict=True)]
    return Agreement(max(len(here), 1), max(len(here), 1), max(map(float, off), default=0.0))


_COMPARES = {CLASSIFY: _classified, TAG: _tagged, EMBED: _vector, RERANK: _ranked}
