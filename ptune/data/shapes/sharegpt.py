"""Turns of ShareGPT, `{"from", "value"}`, as messages; LLaMA-Factory's tool calls among them."""

from __future__ import annotations

import json
from typing import Any, TypeAlias

from ptune.data.shapes.json_text import objects_of
from ptune.errors import DataError

Row: TypeAlias = dict[str, Any]

_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function_call": "assistant",
}
_CALL = "function_call"
_THOUGHT_ENDS = "</think>"


def turn_of(turn: Row, path: str) -> Row:
    """Converts a turn to a message. Some such files have the newer keys role and content. Raises: DataError."""
    if "from" not in turn:
        return turn
    role = _ROLES.get(str(turn["from"]))
    if role is None:
        raise DataError(f"{path}.from is {turn['from']!r}; it must be one of {', '.join(_ROLES)}")
    kept = {key: value for key, value in turn.items() if key not in ("from", "value")}
    if turn["from"] == _CALL:
        return {"role": role, **_called(turn.get("value"), f"{path}.value"), **kept}
    return {"role": role, "content": turn.get("value"), **kept}


def _called(value: Any, path: str) -> Row:
    """The content and the tool calls of a turn: one call or a list of them, as objects or JSON text, which thoughts may precede."""
    thought = ""
    if isinstance(value, str):
        before, end, value = value.rpartition(_THOUGHT_ENDS)
        thought = before + end
    if isinstance(value, str) and value.lstrip().startswith("{"):
        value = f"[{value}]"
    calls = objects_of([value] if isinstance(value, dict) else value, path)
    if not calls:
        raise DataError(f"{path} has no tool call")
    return {"content": thought, "tool_calls": [_call(call, path) for call in calls]}


def _call(call: Row, path: str) -> Row:
    """A tool call as OpenAI writes it."""
    name, arguments = call.get("name"), call.get("arguments")
    if not isinstance(name, str):
        raise DataError(f"{path} has a tool call without a name")
    if not isinstance(_parsed(arguments), dict | None):
        raise DataError(
            f"{path}: the arguments of {name} must be an object or its JSON text, not {json.dumps(arguments)[:60]}"
        )
    return {"type": "function", "function": {"name": name, "arguments": arguments or {}}}


def _parsed(arguments: Any) -> Any:
    try:
        return json.loads(arguments) if isinstance(arguments, str) and arguments else arguments or None
    except (ValueError, RecursionError):
        return arguments
