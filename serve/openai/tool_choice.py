"""The field `tool_choice` of a chat, which is read as one word and written out again as it was sent."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema


def _read(choice: Any) -> Any:
    """A word; {"type": "function", "function": {"name"}} becomes "=" and the function's name."""
    if choice in ("none", "auto", "required"):
        return choice
    function = (
        choice.get("function") if isinstance(choice, dict) and choice.get("type") == "function" else None
    )
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise ValueError(
            'must be "none", "auto", "required" or {"type": "function", "function": {"name": …}}'
        )
    return f"={function['name']}"


def _as_sent(choice: str) -> Any:
    """What `_read` reads as this: a receipt holds it, and is asked again."""
    return {"type": "function", "function": {"name": choice[1:]}} if choice.startswith("=") else choice


_NAMED = {
    "type": "object",
    "properties": {
        "type": {"const": "function"},
        "function": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
    },
    "required": ["type", "function"],
}

ToolChoice = Annotated[
    str,
    BeforeValidator(_read),
    PlainSerializer(_as_sent),
    WithJsonSchema({"anyOf": [{"enum": ["none", "auto", "required"]}, _NAMED]}),
]
