"""POST /v1/tag: texts -> the entities in them, with their positions; prompts and answers -> the answers' steps, judged."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Response
from fastapi import Request as HttpRequest

from ptune.tasks.encoder.infer import Tagged, spans, tokens

from ..adapters.access import resolve_encoder_adapter
from ..http.body import body_of
from ..http.dependencies import EncoderServiceDep
from ..service import EncoderService
from .call import Tokenise, TokenisedInput, respond_with_list
from .schemas import TagRequest

if TYPE_CHECKING:
    from ptune.formats.bundle import AdapterRecord
    from ptune.tasks.encoder.infer import Entity

router = APIRouter()


@router.post("/v1/tag")
async def tag(
    body: Annotated[TagRequest, Depends(body_of(TagRequest))], service: EncoderServiceDep, http: HttpRequest
) -> Response:
    """Finds entities, or judges the steps of answers. `begin` and `end` count Unicode code points: `text[begin:end]` is the entity."""
    record = resolve_encoder_adapter(http, service, body, "/v1/tag")
    inputs = [tokenise_words(service, text, record) for text in body.input]
    return await respond_with_list(http, service, record.name, body.model, inputs, described)


def tokenise_words(service: EncoderService, text: Tagged, record: AdapterRecord) -> Tokenise[list[Entity]]:
    """Tokenises a text, when it is called."""

    def tokenise() -> TokenisedInput[list[Entity]]:
        if not spans(text, record):
            return TokenisedInput(_no_entities)  # white space only
        encoded = tokens(text, record, service.model.codec)
        submit = partial(service.model.submit, text, record.name)
        return TokenisedInput(submit, len(encoded.ids), encoded.truncated)

    return tokenise


def _no_entities(left_s: float | None) -> Future[list[Entity]]:
    done: Future[list[Entity]] = Future()
    done.set_result([])
    return done


def described(entities: Sequence[Entity]) -> dict[str, Any]:
    """The entities of one text."""
    return {
        "entities": [
            {
                "label": entity.label,
                "begin": entity.begin,
                "end": entity.end,
                "text": entity.text,
                "score": entity.score,
            }
            for entity in entities
        ]
    }
