"""Streams of chat completions put together again."""

from __future__ import annotations

import json
from typing import Any

import httpx
from openai.types.chat import ChatCompletionChunk


def chunks_of(response: httpx.Response) -> list[dict[str, Any]]:
    """The events of a stream that ended well, each of the shape that the openai package has."""
    response.raise_for_status()
    *data, done = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert done == "[DONE]"
    chunks = [json.loads(line) for line in data]
    for chunk in chunks:
        if chunk["object"] == "chat.completion.chunk":
            ChatCompletionChunk.model_validate(chunk, strict=True)
    return chunks


def whole_of(chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The choices as they would be without streaming: message, logprobs, finish_reason, token_ids."""
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        for piece in chunk["choices"]:
            found = choices.setdefault(
                piece["index"],
                {"index": piece["index"], "message": {"role": None, "content": "", "refusal": None}, "token_ids": []},
            )  # fmt: skip
            _add(found["message"], piece["delta"])
            found["token_ids"] += piece.get("token_ids", [])
            found["logprobs"] = found.get("logprobs", []) + (piece["logprobs"] or {}).get("content", [])
            assert "finish_reason" not in found or found["finish_reason"] is None, (
                "a choice went on after its end"
            )
            found["finish_reason"] = piece["finish_reason"]
    for found in choices.values():
        if "tool_calls" in found["message"] and not found["message"]["content"]:
            found["message"]["content"] = None
    return [choices[index] for index in sorted(choices)]


def _add(message: dict[str, Any], delta: dict[str, Any]) -> None:
    message["role"] = delta.get("role", message["role"])
    message["content"] += delta.get("content", "")
    if "reasoning_content" in delta:
        message["reasoning_content"] = message.get("reasoning_content", "") + delta["reasoning_content"]
    for call in delta.get("tool_calls", ()):
        calls = message.setdefault("tool_calls", [])
        if "id" in call:
            assert call["index"] == len(calls)
            calls.append({"id": call["id"], "type": call["type"], "function": dict(call["function"])})
        else:
            assert call["index"] == len(calls) - 1
            calls[-1]["function"]["arguments"] += call["function"]["arguments"]
