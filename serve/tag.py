"""POST /v1/tag: texts -> the entities in them, with their places."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Response
from fastapi import Request as HttpRequest

from ptune.codecs.words import split

from .body import body_of
from .encoder_schemas import TagRequest
from .encoding import Submit, Submitted, addressed, respond
from .service import EncoderService, TheEncoder

if TYPE_CHECKING:
    from ptune.formats.bundle import AdapterRecord
    from ptune.tasks.encoder.infer import Entity

router = APIRouter()


@router.post("/v1/tag")
async def tag(
    body: Annotated[TagRequest, Depends(body_of(TagRequest))], service: TheEncoder, http: HttpRequest
) -> Response:
    """Finds entities. `begin` and `end` count Unicode code points: `text[begin:end]` is the entity."""
    record = addressed(http, service, body, "/v1/tag")
    submits = [_submit(service, text, record) for text in body.input]
    return await respond(http, service, record.name, body.model, submits, _described)


def _submit(service: EncoderService, text: str, record: AdapterRecord) -> Submit[list[Entity]]:
    def submit() -> Submitted[list[Entity]]:
        words = [text[begin:end] for begin, end in split(text)]
        if not words:
            return Submitted(_none())  # white space: nothing to ask the model
        encoded = service.model.codec.encode_words(words, max_length=record.max_length)
        return Submitted(service.model.submit(text, record.name), len(encoded.ids), encoded.truncated)

    return submit


def _none() -> Future[list[Entity]]:
    done: Future[list[Entity]] = Future()
    done.set_result([])
    return done


def _described(entities: Sequence[Entity]) -> dict[str, Any]:
    return {
        "entities": [
            {"label": one.label, "begin": one.begin, "end": one.end, "text": one.text, "score": one.score}
            for one in entities
        ]
    }
