"""POST /api/chat and /api/generate: Ollama's API. Each request is answered as a chat."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Response
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse

from ..adapters.access import resolve_adapter
from ..anthropic.messages import called_with
from ..http.dependencies import ChatServiceDep
from ..http.error_forms import plain_error
from ..openai.answer_blocks import AnswerBlocks, BlockEvent, Ended, Grew
from ..openai.chat import ChatReply, chat_reply
from ..openai.chat_translation import renaming
from ..openai.response import Framing, respond
from .body import ollama_body_of
from .conversation import NAMES, chat_of
from .schemas import OllamaChatRequest, OllamaGenerateRequest

if TYPE_CHECKING:
    from ..service import ChatService

router = APIRouter()


def _line(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":")) + "\n"


LINES = Framing(written=_line, error=plain_error, media_type="application/x-ndjson")


@router.post("/api/chat")
async def chat(
    body: Annotated[OllamaChatRequest, Depends(ollama_body_of(OllamaChatRequest))],
    service: ChatServiceDep,
    http: HttpRequest,
) -> Response:
    """Answers a conversation; without one, says that the model is loaded."""
    return await _answered(body, service, http, loads=not body.messages)


@router.post("/api/generate")
async def generate(
    body: Annotated[OllamaGenerateRequest, Depends(ollama_body_of(OllamaGenerateRequest))],
    service: ChatServiceDep,
    http: HttpRequest,
) -> Response:
    """Answers a prompt as a conversation of one message; without one, says that the model is loaded."""
    return await _answered(body, service, http, loads=not body.prompt and not body.images)


async def _answered(
    body: OllamaChatRequest | OllamaGenerateRequest, service: ChatService, http: HttpRequest, *, loads: bool
) -> Response:
    adapter = resolve_adapter(http, service, body.adapter)
    form = _message if isinstance(body, OllamaChatRequest) else _response
    if loads:
        return JSONResponse({**_head(body.model), **form({}), "done": True, "done_reason": "load"})
    with renaming(NAMES):
        chat = chat_of(body, service.model.codec_for(adapter))
        answer = await chat_reply(chat, service, http, adapter, to_context_end=True)
        reply = _OllamaReply(answer, body.model, form)
        return await respond(http, answer.call, reply, stream=body.stream, framing=LINES)


def _head(model: str) -> dict[str, Any]:
    return {"model": model, "created_at": datetime.now(UTC).isoformat().replace("+00:00", "Z")}


def _message(said: dict[str, Any]) -> dict[str, Any]:
    """What is said, as /api/chat has it."""
    return {"message": {"role": "assistant", "content": "", **said}}


def _response(said: dict[str, Any]) -> dict[str, Any]:
    """What is said, as /api/generate has it."""
    return {"response": said.get("content", ""), **{name: said[name] for name in said if name != "content"}}


class _OllamaReply:
    """Writes an answer as one object, or as lines of them. form: how what is said is put into an object."""

    def __init__(self, answer: ChatReply, model: str, form: Any) -> None:
        self._answer = answer
        self._blocks = AnswerBlocks(answer)
        self._model = model
        self._form = form
        self._started_ns = time.perf_counter_ns()
        self._first_ns: int | None = None  # when the first of it was there

    async def whole(self) -> dict[str, Any]:
        """The answer, with its counts and durations."""
        said: dict[str, Any] = {}
        async for piece in self._pieces():
            for name, value in piece.items():
                said[name] = said[name] + value if name in said else value
        return self._end(said)

    async def chunks(self) -> AsyncIterator[dict[str, Any]]:
        """Pieces of the answer, as tokens arrive; counts and durations with the last."""
        async for piece in self._pieces():
            yield {**_head(self._model), **self._object(piece), "done": False}
        yield self._end({})

    async def _pieces(self) -> AsyncIterator[dict[str, Any]]:
        async for event in self._blocks.events():
            self._first_ns = self._first_ns or time.perf_counter_ns()
            if piece := _piece(event):
                yield piece | self._scores()

    def _scores(self) -> dict[str, Any]:
        """The log-probabilities of the tokens since the last piece, if they were requested."""
        scores = self._blocks.taken_logprobs()
        return {"logprobs": scores} if scores else {}

    def _object(self, piece: dict[str, Any]) -> dict[str, Any]:
        scores = {"logprobs": piece["logprobs"]} if "logprobs" in piece else {}
        return {**self._form({name: piece[name] for name in piece if name != "logprobs"}), **scores}

    def _end(self, said: dict[str, Any]) -> dict[str, Any]:
        scores = said.get("logprobs", []) + self._blocks.taken_logprobs()
        now_ns, usage = time.perf_counter_ns(), self._answer.usage()
        first_ns = self._first_ns or now_ns
        return {
            **_head(self._model),
            **self._object(said | ({"logprobs": scores} if scores else {})),
            "done": True,
            "done_reason": self._blocks.finish,
            "total_duration": now_ns - self._started_ns,
            "load_duration": 0,  # adapters are loaded beside the answers of others
            "prompt_eval_count": usage["prompt_tokens"],
            "prompt_eval_duration": first_ns - self._started_ns,
            "eval_count": usage["completion_tokens"],
            "eval_duration": now_ns - first_ns,
        }


def _piece(event: BlockEvent) -> dict[str, Any]:
    """What an event adds to the message. A call comes whole, once it is complete; one in which the answer ended, not at all."""
    block = event.block
    if isinstance(event, Grew) and block.kind != "call":
        return {"thinking" if block.kind == "reasoning" else "content": event.text}
    if isinstance(event, Ended) and block.kind == "call" and not block.cut:
        function = {"name": block.name, "arguments": called_with(block.text)}
        return {"tool_calls": [{"id": block.call_id, "function": function}]}
    return {}
