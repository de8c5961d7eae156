"""What the tensors of each task are: from texts to inputs of the engine, and from its outputs to tensors."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ptune.errors import RequestError
from ptune.formats.task_names import (
    FEATURE_EXTRACTION,
    TEXT_CLASSIFICATION,
    TEXT_RANKING,
    TOKEN_CLASSIFICATION,
)
from ptune.tasks.retrieval.infer import relevance, shortened, width_of

from ..encoders.call import Tokenise
from ..encoders.classify import tokenise_input
from ..encoders.embeddings import tokenise_text
from ..encoders.retrieval_schemas import MAX_TEXTS
from ..encoders.schemas import MAX_INPUTS
from ..encoders.tag import described, tokenise_words
from ..service import EncoderService

if TYPE_CHECKING:
    from ptune.formats.bundle import AdapterRecord

Datatype = Literal["BYTES", "FP32"]
Card = dict[str, Any]
TEXT, PAIR = "text", "text_pair"


@dataclass(frozen=True)
class Tensor:
    """A tensor's name and type. width: of its second dimension; None if it has one number or text for each input."""

    name: str
    datatype: Datatype
    width: Callable[[AdapterRecord], int] | None = None

    def shape(self, record: AdapterRecord, rows: int) -> list[int]:
        """rows: -1 for any number."""
        return [rows] if self.width is None else [rows, self.width(record)]

    def card(self, record: AdapterRecord) -> Card:
        """How the protocol describes it."""
        return {"name": self.name, "datatype": self.datatype, "shape": self.shape(record, -1)}


@dataclass(frozen=True)
class TaskTensors:
    """The tensors of one task. pairs: whether a second text may, or must, come with each.

    tokenise: (service, text or pair, record, cut) -> an input. columns: (outputs, record) -> the data of each output, flat.
    """

    outputs: tuple[Tensor, ...]
    pairs: Literal["none", "optional", "required"]
    most: int
    tokenise: Callable[[EncoderService, Any, AdapterRecord, int | None], Tokenise[Any]]
    columns: Callable[[Sequence[Any], AdapterRecord], Sequence[list[Any]]]

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        names = (TEXT,) if self.pairs == "none" else (TEXT, PAIR)
        return tuple(Tensor(name, "BYTES") for name in names)


def tensors_of(record: AdapterRecord) -> TaskTensors:
    """The tensors of an adapter's task. Raises: RequestError(400) if the protocol is not built for it."""
    if record.task not in _TENSORS:
        message = f"{record.name} is an adapter for {record.task}, which has no tensors of texts: see /v1/models for its endpoint"
        raise RequestError(message, param="model", code="wrong_endpoint")
    return _TENSORS[record.task]


def _classified(outputs: Sequence[Any], record: AdapterRecord) -> Sequence[list[Any]]:
    scores = [output.scores[label] for output in outputs for label in record.labels]
    return [output.label for output in outputs], scores


def _vectors(outputs: Sequence[Any], record: AdapterRecord) -> Sequence[list[Any]]:
    return ([float(value) for output in outputs for value in shortened(output, record, None)],)


def _ranked(outputs: Sequence[Any], record: AdapterRecord) -> Sequence[list[Any]]:
    return ([float(score) for score in relevance(outputs, record)],)


def _tagged(outputs: Sequence[Any], record: AdapterRecord) -> Sequence[list[Any]]:
    return ([json.dumps(described(output)["entities"], ensure_ascii=False) for output in outputs],)


_TENSORS = {
    TEXT_CLASSIFICATION: TaskTensors(
        (Tensor("label", "BYTES"), Tensor("probs", "FP32", lambda record: len(record.labels))),
        "optional",
        MAX_INPUTS,
        lambda service, text, record, cut: tokenise_input(service, text, record),
        _classified,
    ),
    TOKEN_CLASSIFICATION: TaskTensors(
        (Tensor("entities", "BYTES"),),
        "none",
        MAX_INPUTS,
        lambda service, text, record, cut: tokenise_words(service, text, record),
        _tagged,
    ),
    FEATURE_EXTRACTION: TaskTensors(
        (Tensor("embedding", "FP32", width_of),), "none", MAX_TEXTS, tokenise_text, _vectors
    ),
    TEXT_RANKING: TaskTensors((Tensor("score", "FP32"),), "required", MAX_TEXTS, tokenise_text, _ranked),
}
