"""A request to OpenAI's Responses API as the chat that it asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..openai.chat_translation import chat_request, switched_thinking
from .items import chat_messages

if TYPE_CHECKING:
    from pydantic import BaseModel

    from ptune.codecs.chat import ChatCodec

    from ..openai.schemas import ChatRequest
    from .schemas import ResponsesRequest, TextFormat

NAMES = {
    "max_tokens": "max_output_tokens",
    "messages": "input",
    "reasoning_effort": "reasoning.effort",
    "response_format": "text.format",
}
"""What the fields of a chat are called here."""


def chat_of(body: ResponsesRequest, before: Sequence[BaseModel], codec: ChatCodec) -> ChatRequest:
    """The chat. before: the items of the responses that it goes on from. codec: of the adapter that answers.

    Raises: RequestError.
    """
    lead = [] if body.instructions is None else [{"role": "system", "content": body.instructions}]
    fields = {
        **body.model_dump(
            include={
                "model",
                "parallel_tool_calls",
                "safety_identifier",
                "stream",
                "temperature",
                "top_p",
                "user",
            }
        ),
        "messages": lead + chat_messages([*before, *body.input], len(before)),
        "max_tokens": body.max_output_tokens,
        "tools": [_tool(tool.model_dump(exclude_none=True)) for tool in body.tools],
        "tool_choice": _tool_choice(body.tool_choice),
        "response_format": _response_format(body.text.format),
    }
    if body.reasoning.effort == "none":
        return chat_request(fields | switched_thinking(codec, on=False))
    return chat_request({**fields, "reasoning_effort": body.reasoning.effort})


def _tool(sent: dict[str, Any]) -> dict[str, Any]:
    """A tool in a chat's shape, which has a function inside."""
    return {"type": sent.pop("type"), "function": sent}


def _tool_choice(choice: Any) -> Any:
    return choice if isinstance(choice, str) else {"type": "function", "function": {"name": choice["name"]}}


def _response_format(form: TextFormat) -> dict[str, Any]:
    if form.json_schema is None:
        return {"type": form.type}
    return {"type": form.type, "json_schema": {"name": form.name or "answer", "schema": form.json_schema}}
