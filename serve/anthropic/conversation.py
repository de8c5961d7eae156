"""A request to Anthropic's Messages API as the chat that it asks for."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ..fields.image_part import image_part
from ..openai.chat_translation import chat_request, switched_thinking
from .schemas import (
    CountTokensRequest,
    ImageBlock,
    InputMessage,
    MessagesRequest,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
)

if TYPE_CHECKING:
    from ptune.codecs.chat import ChatCodec

    from ..openai.schemas import ChatRequest

NAMES = {
    "thinking_token_budget": "thinking.budget_tokens",
    "response_format": "output_config.format",
    "reasoning_effort": "output_config.effort",
    "continue_final_message": "messages",
    "stop": "stop_sequences",
}
"""What the fields of a chat are called here."""

_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def chat_of(body: CountTokensRequest, codec: ChatCodec) -> ChatRequest:
    """The chat. codec: of the adapter that answers. Raises: RequestError."""
    turns = [{"role": "system", "content": _text(body.system)}] if body.system else []
    for message in body.messages:
        turns += _turns(message)
    fields: dict[str, Any] = {
        "model": body.model,
        "messages": turns,
        "continue_final_message": turns[-1]["role"] == "assistant",
        "tools": [_tool(tool.model_dump(exclude_none=True)) for tool in body.tools],
        "tool_choice": _CHOICES.get(body.tool_choice.type) or _named(body.tool_choice.name),
        "parallel_tool_calls": not body.tool_choice.disable_parallel_tool_use,
        "reasoning_effort": body.output_config.effort,
    }
    if (form := body.output_config.format) is not None:
        schema = {"name": "answer", "schema": form.json_schema}
        fields["response_format"] = {"type": "json_schema", "json_schema": schema}
    if body.thinking is not None:
        fields["include_reasoning"] = body.thinking.display != "omitted"
        if body.thinking.type != "adaptive":
            fields |= switched_thinking(codec, on=body.thinking.type == "enabled")
        if body.thinking.budget_tokens is not None:
            fields["thinking_token_budget"] = body.thinking.budget_tokens
    return chat_request(fields | (_sampling(body) if isinstance(body, MessagesRequest) else {}))


def _sampling(body: MessagesRequest) -> dict[str, Any]:
    return {
        **body.model_dump(include={"max_tokens", "stream", "temperature", "top_p", "top_k"}),
        "stop": body.stop_sequences,
        "user": body.metadata.user_id,
    }


def _turns(message: InputMessage) -> list[dict[str, Any]]:
    """The messages of a chat that one message stands for: results of tools, then what is said."""
    results: list[dict[str, Any]] = [
        {"role": "tool", "tool_call_id": block.tool_use_id, "content": _text(block.content, "\n")}
        for block in message.content
        if isinstance(block, ToolResultBlock)
    ]
    calls = [
        {
            "id": block.id,
            "type": "function",
            "function": {"name": block.name, "arguments": _json(block.input)},
        }
        for block in message.content
        if isinstance(block, ToolUseBlock)
    ]
    thought = "".join(block.thinking for block in message.content if isinstance(block, ThinkingBlock))
    said = [block for block in message.content if isinstance(block, TextBlock | ImageBlock)]
    if results and not said:
        return results
    turn: dict[str, Any] = {"role": message.role, "content": _content(said) if said or not calls else None}
    turn |= {"tool_calls": calls} if calls else {}
    return [*results, turn | ({"reasoning_content": thought} if thought else {})]


def _content(blocks: list[TextBlock | ImageBlock]) -> str | list[dict[str, Any]]:
    """What is said: text, or parts where images are among it."""
    texts = [block for block in blocks if isinstance(block, TextBlock)]
    if len(texts) == len(blocks):
        return _text(texts)
    return [
        {"type": "text", "text": block.text} if isinstance(block, TextBlock) else image_part(block.source.uri)
        for block in blocks
    ]


def _text(blocks: list[TextBlock], between: str = "") -> str:
    """between: a line's end where each block is a thing of its own, as in a tool's list of files."""
    return between.join(block.text for block in blocks)


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False)


def _tool(sent: dict[str, Any]) -> dict[str, Any]:
    shown = {name: sent[name] for name in ("name", "description", "strict") if name in sent}
    return {"type": "function", "function": {**shown, "parameters": sent["input_schema"]}}


def _named(name: str | None) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}
