"""An encoder's last hop: a real server process against the engine in this process, for texts and image files."""

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
from ptune.verify.decoder.probes import WITHOUT_DATA
from ptune.verify.encoder.compare import readable
from ptune.verify.encoder.torch_side import Inputs
from ptune.verify.server import TIE, Agreement, agreements, hop, post

CLASSIFY, TAG, EMBED, RERANK = "/v1/classify", "/v1/tag", "/v1/embeddings", "/v1/rerank"
_CUT = {"truncate_prompt_tokens": ALL_IT_READS}  # truncates like `encode`


@dataclass(frozen=True)
class Question:
    """A text or an image file, as a client sends it, with the engine's answer under an adapter."""

    adapter: AdapterRecord
    given: str | bytes
    logits: Array  # [labels]; [words, labels] of a tagger; [width] of an embedding adapter

    @property
    def name(self) -> str:
        return self.adapter.name

    @property
    def path(self) -> str:
        return path_of(self.adapter)

    @property
    def body(self) -> dict[str, Any]:
        """The request's JSON."""
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
    """Turns the held-out inputs back into client requests under every adapter, with the engine's answers."""
    codec = SequenceCodec.open(bundle.codec_path) if bundle.encoder.modality == "text" else None
    server_questions = []
    for adapter in map(bundle.adapter, adapters):
        client_inputs = [
            _file(one, adapter) if codec is None else _text(one, codec, n) for n, one in enumerate(inputs)
        ]
        engine_inputs = [(one, one) if path_of(adapter) == RERANK else one for one in client_inputs]
        encoded = [encode(one, adapter, codec) for one in engine_inputs]
        answers = engine.logits([Item(one.inputs, adapter.name) for one in encoded])
        for client_input, how, logits in zip(client_inputs, encoded, answers, strict=True):
            words = logits if how.first is None else logits[list(how.first)]
            server_questions.append(Question(adapter, client_input, words))
    return server_questions


def _text(one: Inputs, codec: SequenceCodec, number: int) -> str:
    """Decodes tokens; one of our own texts if they are blank."""
    text = codec.tokenizer.decode(one["input_ids"].tolist(), skip_special_tokens=True).replace("\0", " ")
    return text if text.strip() else WITHOUT_DATA[number % len(WITHOUT_DATA)]


def _file(one: Inputs, adapter: AdapterRecord) -> bytes:
    """Writes the image that the model sees as a JPEG file."""
    from PIL import Image

    seen = Preprocessing.model_validate(adapter.preprocessing)
    pixels = (np.moveaxis(one["pixel_values"], 0, -1) * seen.std + seen.mean) * 255
    held = io.BytesIO()
    Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8)).save(held, "JPEG", quality=90)
    return held.getvalue()


def served_hops(bundle: Bundle, server_questions: Sequence[Question], threads: int) -> dict[str, Hop]:
    """Compares the same questions over HTTP, many at once, with the engine's answers; one hop per adapter."""
    by_name = agreements(bundle.folder, threads, server_questions, _ask, _agreement)
    return {name: _hop(bundle.adapter(name), answers) for name, answers in by_name.items()}


def _hop(adapter: AdapterRecord, answers: Sequence[Agreement]) -> Hop:
    if adapter.problem == "regression":
        return hop(answers, "name", "max |Δ| of the number, or its share of it,")
    if adapter.problem == "vector":
        return hop(answers, "width", "max |Δ| of a vector's numbers", limits.MAX_ABS_VECTOR)
    return hop(answers, "entities" if adapter.problem == "tags" else "labels")


def _ask(client: httpx.Client, question: Question) -> Any:
    answer = post(client, question.path, question.body)
    return answer["results" if question.path == RERANK else "data"][0]


def _agreement(question: Question, answer: Any) -> Agreement:
    return _COMPARES[question.path](question, answer)


def _vector(question: Question, answer: Any) -> Agreement:
    """Compares vectors, number by number."""
    served = np.array(answer["embedding"], np.float64)
    if served.shape != question.logits.shape:
        return Agreement(0, 1, 0.0)
    return Agreement(
        1, 1, float(np.abs(served - question.logits).max() / max(1.0, float(np.abs(question.logits).max())))
    )


def _ranked(question: Question, answer: Any) -> Agreement:
    """Compares the probability that the text answers itself."""
    logit = float(question.logits[0])
    here, there = -np.logaddexp(0.0, -logit), np.log(max(float(answer["relevance_score"]), 1e-300))
    return Agreement(1, 1, abs(float(here - there)))


def _classified(question: Question, answer: Any) -> Agreement:
    """Compares the label, or all labels that fit, and the head's numbers."""
    adapter, served = question.adapter, np.array(answer["probs"], np.float32)
    if served.shape != question.logits.shape:
        raise ParityError(f"the server gave {served.size} numbers for {len(adapter.labels)} labels")
    problem = adapter.problem or "single"
    here, there = (readable(problem, side).astype(np.float64) for side in (question.logits, served))
    off = np.abs(here - there)
    if adapter.problem == "regression":
        off = off / np.maximum(1.0, np.abs(here))
    return Agreement(int(_same_label(question, answer)), 1, float(off.max()))


def _same_label(question: Question, answer: Any) -> bool:
    expected = classification(question.logits, question.adapter)
    if question.adapter.problem == "multi":
        sure = {
            name
            for name, logit in zip(question.adapter.labels, expected.logits, strict=True)
            if abs(logit) > TIE
        }
        fitting = {name for name, score in expected.scores.items() if score >= 0.5}
        return bool(sure & fitting == sure & set(answer["labels"]))
    return bool(answer["label"] == expected.label) or _close(question.logits)


def _close(logits: Array) -> bool:
    """Whether the two likeliest labels of a row [..., labels] are close enough to swap."""
    best = np.sort(logits, -1)[..., -2:]
    return logits.shape[-1] > 1 and bool((best[..., 1] - best[..., 0] <= TIE).any())


def _tagged(question: Question, answer: Any) -> Agreement:
    """Compares entities with their places and scores; a text without entities counts as one answer."""
    assert isinstance(question.given, str)
    here, there = entities(question.given, question.logits, question.adapter), answer["entities"]
    places = [(each.label, each.begin, each.end, each.text) for each in here]
    served = [(each["label"], each["begin"], each["end"], each["text"]) for each in there]
    if places != served:
        return Agreement(int(_close(question.logits)), 1, 0.0)
    off = [abs(np.log(each.score) - np.log(other["score"])) for each, other in zip(here, there, strict=True)]
    return Agreement(max(len(here), 1), max(len(here), 1), max(map(float, off), default=0.0))


_COMPARES = {CLASSIFY: _classified, TAG: _tagged, EMBED: _vector, RERANK: _ranked}
