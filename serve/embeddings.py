"""POST /v1/embeddings: texts -> vectors, in OpenAI's shape."""

from __future__ import annotations

import base64
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Response
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse

from ptune.engine.encoder.batch import Item
from ptune.engine.onnx_graph import Array
from ptune.tasks.retrieval.infer import check_cut, check_dimensions, read, shortened

from .body import body_of
from .encoding import Submit, Submitted, addressed, answered
from .retrieval_schemas import EmbeddingsRequest
from .service import EncoderService, TheEncoder

if TYPE_CHECKING:
    from ptune.formats.bundle import AdapterRecord

router = APIRouter()
PATH = "/v1/embeddings"


@router.post(PATH)
async def embeddings(
    body: Annotated[EmbeddingsRequest, Depends(body_of(EmbeddingsRequest))],
    service: TheEncoder,
    http: HttpRequest,
) -> Response:
    """A vector for each input; inputs of all requests and adapters share passes."""
    record = addressed(http, service, body, PATH)
    check_dimensions(record, body.dimensions)
    check_cut(record, service.model.codec, body.truncate_prompt_tokens)
    submits = [submitted(service, text, record, body.truncate_prompt_tokens) for text in body.input]
    vectors, tokens = await answered(http, service, record.name, submits)
    data = [
        {"object": "embedding", "index": index, "embedding": _written(vector, record, body)}
        for index, vector in enumerate(vectors)
    ]
    content: dict[str, Any] = {
        "object": "list",
        "data": data,
        "model": body.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    return JSONResponse(content, headers={"x-ptune-adapter": service.catalogue.answered_by(record.name)})


def submitted(
    service: EncoderService, one: str | tuple[str, str], record: AdapterRecord, cut: int | None
) -> Submit[Array]:
    """What queues a text, or a pair, for what an adapter says of it. cut: as `ptune.tasks.retrieval.infer.read` has it."""
    return partial(_submit, service, one, record, cut)


def _submit(
    service: EncoderService, one: str | tuple[str, str], record: AdapterRecord, cut: int | None
) -> Submitted[Array]:
    inputs = read(one, record, service.model.codec, cut, option='"truncate_prompt_tokens": -1')
    future = service.model.engine.submit(Item(inputs, record.name))
    return Submitted(future, len(inputs["input_ids"]))


def _written(vector: Array, record: AdapterRecord, body: EmbeddingsRequest) -> list[float] | str:
    """Numbers, or the bytes of float32, little-endian, in base64."""
    short = shortened(vector, record, body.dimensions)
    if body.encoding_format == "base64":
        return base64.b64encode(np.ascontiguousarray(short, dtype="<f4").tobytes()).decode()
    return [float(value) for value in short]
