"""A request to Ollama's API as the chat that it asks for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ptune.errors import RequestError

from ..fields.image_part import image_part
from ..openai.chat_translation import chat_request, switched_thinking
from .schemas import OllamaChatRequest, OllamaGenerateRequest, OllamaMessage, Options

if TYPE_CHECKING:
    from ptune.codecs.chat import ChatCodec

    from ..openai.schemas import ChatRequest

NAMES = {
    "chat_template_kwargs": "think",
    "max_tokens": "options.num_predict",
    "reasoning_effort": "think",
    "repetition_penalty": "options.repeat_penalty",
    "response_format": "format",
    "thinking_token_budget": "think",
    "thinking": "think",
}
"""What the fields of a chat are called here."""

_SAMPLED = ("temperature", "top_k", "top_p", "min_p", "seed", "frequency_penalty", "presence_penalty", "stop")


def chat_of(body: OllamaChatRequest | OllamaGenerateRequest, codec: ChatCodec) -> ChatRequest:
    """The chat. codec: of the adapter that answers. Raises: RequestError."""
    fields: dict[str, Any] = {
        "model": body.adapter,
        "stream": body.stream,
        "logprobs": body.logprobs,
        "top_logprobs": body.top_logprobs,
        "response_format": _response_format(body.format),
        **_sampling(body.options),
    }
    if isinstance(body, OllamaChatRequest):
        fields |= {"messages": _turns(body.messages), "tools": body.tools}
    else:
        system = [{"role": "system", "content": body.system}] if body.system else []
        fields["messages"] = [*system, {"role": "user", "content": _content(body.prompt, body.images)}]
    if isinstance(body.think, str):
        fields["reasoning_effort"] = body.think
    elif body.think is not None:
        fields |= switched_thinking(codec, on=body.think)
    return chat_request(fields)


def _sampling(options: Options) -> dict[str, Any]:
    predicted = options.num_predict
    return {
        **options.model_dump(include=set(_SAMPLED)),
        "repetition_penalty": options.repeat_penalty,
        "max_tokens": None if predicted is None or predicted < 0 else predicted,
    }


def _response_format(form: Any) -> dict[str, Any] | None:
    if isinstance(form, dict):
        return {"type": "json_schema", "json_schema": {"name": "answer", "schema": form}}
    return {"type": "json_object"} if form else None


def _turns(messages: Sequence[OllamaMessage]) -> list[dict[str, Any]]:
    """The messages of a chat, in which each result names its call: by its id, or by name, or in their order."""
    turns: list[dict[str, Any]] = []
    open_calls: dict[str, str] = {}  # the functions of the calls that have no result yet, by id
    for index, message in enumerate(messages):
        turn: dict[str, Any] = {"role": message.role, "content": _content(message.content, message.images)}
        if message.thinking:
            turn["reasoning_content"] = message.thinking
        if message.tool_calls:
            calls = [
                (call.id or f"call{index % 1000:03}{place % 100:02}", call.function)  # as Mistral wants it
                for place, call in enumerate(message.tool_calls)
            ]
            turn["tool_calls"] = [
                {
                    "id": call_id,
                    "type": "function",
                    "function": {
                        "name": function.name,
                        "arguments": json.dumps(function.arguments, ensure_ascii=False),
                    },
                }
                for call_id, function in calls
            ]
            open_calls = {call_id: function.name for call_id, function in calls}
        if message.role == "tool":
            turn["tool_call_id"] = _answered(message, index, open_calls)
        turns.append(turn)
    return turns


def _content(text: str, images: Sequence[str]) -> str | list[dict[str, Any]]:
    """What is said: text, or images and the text after them."""
    if not images:
        return text
    return [*map(image_part, images), *([{"type": "text", "text": text}] if text else [])]


def _answered(message: OllamaMessage, index: int, open_calls: dict[str, str]) -> str:
    """Takes the call that a message of role tool answers out of the open ones. Raises: RequestError."""
    for call_id, name in open_calls.items():
        if message.tool_call_id in (None, call_id) and message.tool_name in (None, name):
            del open_calls[call_id]
            return call_id
    path = f"messages[{index}]"
    named = "" if message.tool_name is None else f" of {message.tool_name[:40]!r}"
    told = f"{path}: the answer before it has no tool call{named} that waits for a result"
    raise RequestError(told, param=path, code="invalid_value")
