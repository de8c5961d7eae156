"""POST /v1/rerank: documents by how well they answer a query, in the shape of Jina and Cohere."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Response
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse

from ptune.engine.onnx_graph import Array
from ptune.errors import RequestError
from ptune.formats.task_names import TEXT_RANKING
from ptune.tasks.retrieval.infer import check_cut, relevance, rerank_inputs

from .body import body_of
from .embeddings import submitted
from .encoding import Submit, Submitted, addressed, answered
from .retrieval_schemas import RerankRequest
from .service import TheEncoder

router = APIRouter()
PATH = "/v1/rerank"


@router.post(PATH)
async def rerank(
    body: Annotated[RerankRequest, Depends(body_of(RerankRequest))],
    service: TheEncoder,
    http: HttpRequest,
) -> Response:
    """A reranker scores each document with the query; an adapter of vectors compares theirs by cosine."""
    record = addressed(http, service, body, PATH)
    texts = body.texts
    cut, pairs = body.truncate_prompt_tokens, record.task == TEXT_RANKING
    check_cut(record, service.model.codec, cut)
    submits = [
        _placed(submitted(service, one, record, cut), index if pairs else index - 1)
        for index, one in enumerate(rerank_inputs(body.query, texts, record))
    ]
    outputs, tokens = await answered(http, service, record.name, submits)
    scores = relevance(outputs, record)
    order = np.argsort(-scores, kind="stable")[: body.top_n].tolist()
    content: dict[str, Any] = {
        "id": f"rerank-{http.state.request_id}",
        "object": "list",
        "model": body.model,
        "results": [
            {
                "index": index,
                "relevance_score": float(scores[index]),
                **({"document": {"text": texts[index]}} if body.return_documents else {}),
            }
            for index in order
        ],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    return JSONResponse(content, headers={"x-ptune-adapter": service.catalogue.answered_by(record.name)})


def _placed(submit: Submit[Array], document: int) -> Submit[Array]:
    """The same; where it is refused it is said which document it was, -1 being the query."""

    def placed() -> Submitted[Array]:
        try:
            return submit()
        except RequestError as error:
            if error.param != "input":
                raise
            place = "query" if document < 0 else f"documents[{document}]"
            raise RequestError(
                f"{place}: {error}", param=place, code=error.code, status=error.status
            ) from None

    return placed
