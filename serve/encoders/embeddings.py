"""POST /v1/embeddings: texts -> vectors, in OpenAI's format."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Response
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse

from ptune.engine.encoder.batch import Item
from ptune.engine.onnx_graph import Array
from ptune.tasks.retrieval.infer import check_cut, check_dimensions, read, shortened

from ..adapters.access import resolve_encoder_adapter
from ..http.body import body_of
from ..http.dependencies import EncoderServiceDep
from ..service import EncoderService
from .call import EncoderCall, Tokenise, TokenisedInput, run_encoder
from .retrieval_schemas import EmbeddingsRequest

if TYPE_CHECKING:
    from ptune.formats.bundle import AdapterRecord

router = APIRouter()
PATH = "/v1/embeddings"


@router.post(PATH)
async def embeddings(
    body: Annotated[EmbeddingsRequest, Depends(body_of(EmbeddingsRequest))],
    service: EncoderServiceDep,
    http: HttpRequest,
) -> Response:
    """A vector for each input; inputs of all requests and adapters share batches."""
    vectors, call = await embedded(body, service, http)
    data = [
        {"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)
    ]
    content: dict[str, Any] = {
        "object": "list",
        "data": data,
        "model": body.model,
        "usage": {"prompt_tokens": call.prompt_tokens, "total_tokens": call.prompt_tokens},
    }
    return JSONResponse(content)


async def embedded(
    body: EmbeddingsRequest, service: EncoderService, http: HttpRequest
) -> tuple[list[list[float] | str], EncoderCall[Array]]:
    """The vectors of a request's inputs, in its format, and the call that computed them. Raises: RequestError."""
    record = resolve_encoder_adapter(http, service, body, PATH)
    check_dimensions(record, body.dimensions)
    check_cut(record, service.model.codec, body.truncate_prompt_tokens)
    inputs = [tokenise_text(service, text, record, body.truncate_prompt_tokens) for text in body.input]
    vectors, call = await run_encoder(http, service, record.name, inputs)
    return [_format(vector, record, body) for vector in vectors], call


def tokenise_text(
    service: EncoderService, text: str | tuple[str, str], record: AdapterRecord, cut: int | None
) -> Tokenise[Array]:
    """Tokenises a text, or a pair of texts, when it is called. cut: as `ptune.tasks.retrieval.infer.read` has it."""

    def tokenise() -> TokenisedInput[Array]:
        inputs = read(text, record, service.model.codec, cut, option='"truncate_prompt_tokens": -1')
        submit = service.model.engine.submit
        return TokenisedInput(
            lambda left_s: submit(Item(inputs, record.name, left_s)), len(inputs["input_ids"])
        )

    return tokenise


def _format(vector: Array, record: AdapterRecord, body: EmbeddingsRequest) -> list[float] | str:
    """A list of numbers, or little-endian float32 in base64."""
    short = shortened(vector, record, body.dimensions)
    if body.encoding_format == "base64":
        return base64.b64encode(np.ascontiguousarray(short, dtype="<f4").tobytes()).decode()
    return [float(value) for value in short]
