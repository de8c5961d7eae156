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

from ..adapters.access import resolve_adapter
from ..catalogue import LANGUAGES, TRANSLATE
from ..http.body import body_of
from ..http.context import share_of
from ..http.deadline import deadline_s
from ..http.dependencies import GenerationServiceDep
from ..http.errors import UNSUPPORTED
from ..openai.call import DecoderCall, FinishedSequence
from ..openai.response import common_fields, respond
from ..service import ChatService, Seq2SeqService
from .call import GeneratedText, Seq2SeqCall
from .schemas import TranslateRequest

if TYPE_CHECKING:
    from ptune.codecs.chat import ChatCodec
    from ptune.engine.seq2seq.request import Seq2SeqRequest
    from ptune.formats.bundle import AdapterRecord

router = APIRouter()


@router.post(TRANSLATE)
async def translate(
    body: Annotated[TranslateRequest, Depends(body_of(TranslateRequest))],
    service: GenerationServiceDep,
    http: HttpRequest,
) -> Response:
    """Translates each text independently, greedily or by beam search."""
    adapter = resolve_adapter(http, service, body.model, body.user or None)
    call: DecoderCall | Seq2SeqCall
    if isinstance(service, Seq2SeqService):
        call = await _seq2seq_call(http, service, adapter, body)
    else:
        assert isinstance(service, ChatService)
        call = await _decoder_call(http, service, adapter, body)
    common = common_fields("translate", http, service, body.model, adapter)
    reply = _TranslationReply(call, common, ids=body.return_token_ids)
    return await respond(http, call, reply, stream=False)


async def _decoder_call(
    http: HttpRequest, service: ChatService, adapter: str, body: TranslateRequest
) -> DecoderCall:
    """Translates by a causal model, each text as a conversation."""
    check_translates(service, adapter, body)
    codec, share, limit_s = service.model.codec_for(adapter), share_of(http), deadline_s(http)
    engine = service.model.engine
    context = engine.longest(body.num_beams, adapter)
    encoded = await asyncio.to_thread(
        lambda: [_encode(codec, source, index, context) for index, source in enumerate(body.text)]
    )
    requests = [
        Request(
            prompt=prompt,
            adapter=adapter,
            sampling=Sampling(temperature=0.0),
            max_tokens=most if body.max_tokens is None else body.max_tokens,
            stop_ids=codec.eos_ids,
            beams=body.beams,
            tenant=share.tenant,
            weight=share.weight,
            deadline_s=limit_s,
        )
        for prompt, most in encoded
    ]
    return DecoderCall(service, requests, (), reading=codec.reading(requests[0].prompt))


async def _seq2seq_call(
    http: HttpRequest, service: Seq2SeqService, adapter: str, body: TranslateRequest
) -> Seq2SeqCall:
    """Translates by an encoder-decoder, each text as a source."""
    if body.num_beams > 1:
        message = "num_beams: the server has no beam search for an encoder-decoder; leave num_beams out"
        raise RequestError(message, param="num_beams", code=UNSUPPORTED)
    _check_languages(service.model.engine.record(adapter), adapter, body)
    limit_s = deadline_s(http)

    def request(index: int) -> Seq2SeqRequest:
        try:
            return service.model.sentence(body.text[index], adapter, body.max_tokens, limit_s)
        except RequestError as error:
            if error.param != "text":
                raise
            param = f"text[{index}]"
            raise RequestError(f"{param}: {error}", param=param, code=error.code) from None

    requests = await asyncio.to_thread(lambda: [request(index) for index in range(len(body.text))])
    return Seq2SeqCall(service, requests)


def check_translates(service: ChatService, adapter: str, body: TranslateRequest) -> None:
    """Raises: RequestError(400) if the adapter is for another task, or translates other languages."""
    record = service.model.engine.record(adapter)
    if record is None and service.model.codec.system is not None:
        return  # a merged or fully trained model, whose instruction belongs to the bundle
    if record is None or record.translation is None:
        message = f"{adapter} does not translate: send this to /v1/chat/completions"
        raise RequestError(message, param="model", code="wrong_endpoint")
    _check_languages(record, adapter, body)


def _check_languages(record: AdapterRecord | None, adapter: str, body: TranslateRequest) -> None:
    """Raises: RequestError(400) if the adapter is known to translate other languages."""
    translation = (record and record.translation) or {}
    for name in LANGUAGES:
        requested, actual = getattr(body, name), translation.get(name)
        if requested is not None and actual is not None and requested.casefold() != actual.casefold():
            source, target = (translation.get(language) for language in LANGUAGES)
            message = f"{name} is {requested!r}, but {adapter} translates from {source} into {target}"
            raise RequestError(message, param=name, code="invalid_value")


def _encode(codec: ChatCodec, source: str, index: int, context: int) -> tuple[tuple[int, ...], int]:
    """The prompt of a text, and the most tokens of its translation. Raises: RequestError if the text is too long."""
    prompt = tuple(codec.encode_prompt(messages_of(source)))
    room = context - len(prompt)
    if room < 1:
        raise RequestError(
            f"text[{index}] takes {len(prompt)} tokens with its instruction, over the context of {context}: send it in parts",
            param=f"text[{index}]",
            code="context_length_exceeded",
        )
    return prompt, min(most_tokens(codec, source), room)


class _TranslationReply:
    """Writes translations in the order of the texts."""

    def __init__(self, call: DecoderCall | Seq2SeqCall, common: dict[str, Any], *, ids: bool) -> None:
        """ids: include the token ids of each translation."""
        self._call, self._common, self._ids = call, common, ids

    async def whole(self) -> dict[str, Any]:
        """All translations, and the usage."""
        answers: Sequence[FinishedSequence | GeneratedText] = await self._call.finished()
        data = [
            {
                "index": index,
                "text": answer.text.strip(),
                "finish_reason": answer.finish,
                **({"token_ids": list(answer.ids)} if self._ids else {}),
            }
            for index, answer in enumerate(answers)
        ]
        usage = self._call.usage()
        return {**self._common, "object": "list", "data": data, "usage": usage}

    def chunks(self) -> AsyncIterator[dict[str, Any]]:
        """Not supported: translations are sent whole."""
        raise NotImplementedError
