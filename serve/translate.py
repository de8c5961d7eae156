"""POST /v1/translate: texts -> their translations."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Response
from fastapi import Request as HttpRequest

from ptune.engine.decoder.request import Request
from ptune.engine.sampling import Sampling
from ptune.errors import RequestError
from ptune.tasks.translation.infer import messages_of, most_tokens

from .body import body_of
from .catalogue import TRANSLATE
from .deadline import deadline_s
from .errors import UNSUPPORTED
from .generation import Finished, Generation
from .reply import addressed, head, respond
from .sentences import Sentences, Translated
from .service import ChatService, Seq2SeqService, TheWriter
from .translate_schemas import TranslateRequest
from .usage import key_of

if TYPE_CHECKING:
    from ptune.codecs.chat import ChatCodec
    from ptune.engine.seq2seq.request import Seq2SeqRequest
    from ptune.formats.bundle import AdapterRecord

router = APIRouter()


@router.post(TRANSLATE)
async def translate(
    body: Annotated[TranslateRequest, Depends(body_of(TranslateRequest))],
    service: TheWriter,
    http: HttpRequest,
) -> Response:
    """Translates each text by itself, greedily or by beam search."""
    adapter = addressed(http, service, body.model, body.user or http.state.request_id)
    work: Generation | Sentences
    if isinstance(service, Seq2SeqService):
        work = await _sentences(http, service, adapter, body)
    else:
        assert isinstance(service, ChatService)
        work = await _generation(http, service, adapter, body)
    beginning = head("translate", http, service, body.model, adapter)
    return await respond(http, work, _Translations(work, beginning, ids=body.return_token_ids), stream=False)


async def _generation(
    http: HttpRequest, service: ChatService, adapter: str, body: TranslateRequest
) -> Generation:
    """The texts as conversations of a causal model."""
    check_translates(service, adapter, body)
    codec, key, limit_s = service.model.codec_for(adapter), key_of(http), deadline_s(http)
    context = service.model.engine.context
    encoded = await asyncio.to_thread(
        lambda: [_encoded(codec, source, at, context) for at, source in enumerate(body.text)]
    )
    requests = [
        Request(
            prompt=prompt,
            adapter=adapter,
            sampling=Sampling(temperature=0.0),
            max_tokens=most if body.max_tokens is None else body.max_tokens,
            stop_ids=codec.eos_ids,
            beams=body.beams,
            tenant=key.name,
            weight=key.weight,
            deadline_s=limit_s,
        )
        for prompt, most in encoded
    ]
    return Generation(service, requests, ())


async def _sentences(
    http: HttpRequest, service: Seq2SeqService, adapter: str, body: TranslateRequest
) -> Sentences:
    """The texts as sources of an encoder-decoder."""
    if body.num_beams > 1:
        message = "num_beams: an encoder-decoder is served without beam search: leave it out"
        raise RequestError(message, param="num_beams", code=UNSUPPORTED)
    _check_languages(service.model.engine.record(adapter), adapter, body)
    limit_s = deadline_s(http)

    def sentence(at: int) -> Seq2SeqRequest:
        try:
            return service.model.sentence(body.text[at], adapter, body.max_tokens, limit_s)
        except RequestError as error:
            if error.param != "text":
                raise
            place = f"text[{at}]"
            raise RequestError(f"{place}: {error}", param=place, code=error.code) from None

    return Sentences(service, await asyncio.to_thread(lambda: [*map(sentence, range(len(body.text)))]))


def check_translates(service: ChatService, adapter: str, body: TranslateRequest) -> None:
    """Raises: RequestError(400) for an adapter of another task, and for other languages than it translates."""
    record = service.model.engine.record(adapter)
    if record is None and service.model.codec.system is not None:
        return  # a merged model, or one that was trained as a whole: its instruction is the bundle's own
    if record is None or record.translation is None:
        message = f"{adapter} does not translate: ask it at /v1/chat/completions"
        raise RequestError(message, param="model", code="wrong_endpoint")
    _check_languages(record, adapter, body)


def _check_languages(record: AdapterRecord | None, adapter: str, body: TranslateRequest) -> None:
    """Raises: RequestError(400) for other languages than an adapter says that it translates."""
    said = (record and record.translation) or {}
    for name in ("source_language", "target_language"):
        asked, known = getattr(body, name), said.get(name)
        if asked is not None and known is not None and asked.casefold() != known.casefold():
            message = f"{name} is {asked!r}, but {adapter} translates from {said.get('source_language')} into"
            raise RequestError(f"{message} {said.get('target_language')}", param=name, code="invalid_value")


def _encoded(codec: ChatCodec, source: str, at: int, context: int) -> tuple[tuple[int, ...], int]:
    """A text's prompt, and the most tokens of its translation. Raises: RequestError where it has no room."""
    prompt = tuple(codec.encode_prompt(messages_of(source)))
    room = context - len(prompt)
    if room < 1:
        raise RequestError(
            f"text[{at}] takes {len(prompt)} tokens with its instruction, the context has {context}: send it in parts",
            param=f"text[{at}]",
            code="context_length_exceeded",
        )
    return prompt, min(most_tokens(codec, source), room)


class _Translations:
    """The texts in the order in which they were sent."""

    def __init__(self, work: Generation | Sentences, beginning: dict[str, Any], *, ids: bool) -> None:
        """ids: whether each comes with its tokens."""
        self._work, self._beginning, self._ids = work, beginning, ids

    async def whole(self) -> dict[str, Any]:
        """All of them with their usage."""
        answers: Sequence[Finished | Translated] = await self._work.finished()
        data = [
            {
                "index": index,
                "text": answer.text.strip(),
                "finish_reason": answer.finish,
                **({"token_ids": list(answer.ids)} if self._ids else {}),
            }
            for index, answer in enumerate(answers)
        ]
        usage = self._work.usage()
        return {**self._beginning, "object": "list", "data": data, "usage": usage}

    def chunks(self) -> AsyncIterator[dict[str, Any]]:
        """Translations come whole."""
        raise NotImplementedError
