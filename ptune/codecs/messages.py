"""Checks messages and converts them to the form that chat templates expect."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from ptune.codecs.vision import ROW, SIZE, is_image
from ptune.errors import TemplateError

ROLES = ("system", "developer", "user", "assistant", "tool")
_SURROGATE = re.compile("[\ud800-\udfff]")


def normalise(messages: Sequence[Mapping[str, Any]], *, images: bool = False) -> list[dict[str, Any]]:
    """A checked copy of OpenAI-shaped messages, for a template.

    Text parts of a content become one string; arguments of a tool call given as JSON text become an object; keys without a
    value and the training flag `train` are removed; everything else is unchanged.

    images: whether the model sees images: then questions may hold parts of type image, which name their first row, and such a
    content stays a list of parts.

    Raises: TemplateError that names the message and the field.
    """
    if not _is_list(messages):
        raise TemplateError(f"messages must be a list, not {_kind(messages)}")
    if not messages:
        raise TemplateError("messages is empty: a conversation has at least one message")
    return [_message(message, f"messages[{index}]", images) for index, message in enumerate(messages)]


def is_trained(message: Mapping[str, Any], index: int) -> bool:
    """Whether a message may be a target: an answer without the mark `"train": false`. Raises: TemplateError."""
    flag = message.get("train", True)
    if not isinstance(flag, bool):
        raise TemplateError(f"messages[{index}].train must be true or false, not {flag!r}")
    return flag and message["role"] == "assistant"


def answers_to_train(
    messages: Sequence[Mapping[str, Any]], train_on: Literal["assistant", "last"]
) -> list[int]:
    """Indices of the answers to train on: all, or the last, without those marked `"train": false`. Raises: TemplateError."""
    answers = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    chosen = answers if train_on == "assistant" else answers[-1:]
    return [index for index in chosen if is_trained(messages[index], index)]


def map_strings(value: Any, change: Callable[[str], str], path: str) -> Any:
    """A copy of JSON-like `value` with every string changed, keys of objects too. Raises: TemplateError for other types."""
    if isinstance(value, str):
        return change(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {
            map_strings(key, change, path): map_strings(item, change, f"{path}.{key}")
            for key, item in value.items()
        }
    if _is_list(value):
        return [map_strings(item, change, f"{path}[{index}]") for index, item in enumerate(value)]
    raise TemplateError(f"{path} must be JSON, not {_kind(value)}")


def check_text(text: str, path: str) -> str:
    """Returns the text. Raises: TemplateError for half a surrogate pair, which is possible in JSON but not in UTF-8."""
    match = _SURROGATE.search(text)
    if match is not None:
        raise TemplateError(
            f"{path} holds \\u{ord(match[0]):04x}, half of a surrogate pair: it is not valid Unicode"
        )
    return text


def _message(message: Mapping[str, Any], path: str, images: bool) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise TemplateError(f"{path} must be an object with role and content, not {_kind(message)}")
    role = message.get("role")
    if role not in ROLES:
        given = "is missing" if role is None else f"is {role!r}"
        raise TemplateError(f"{path}.role {given}; it must be one of {', '.join(ROLES)}")
    kept = {key: value for key, value in message.items() if value is not None and key != "train"}
    if "tool_calls" in kept:
        kept["tool_calls"] = _tool_calls(kept["tool_calls"], f"{path}.tool_calls")
    if "content" in kept:
        kept["content"] = _content(kept["content"], f"{path}.content", images and role)
    elif not (role == "assistant" and kept.get("tool_calls")):
        raise TemplateError(f"{path}.content is missing: a message of role {role} needs text")
    checked: dict[str, Any] = map_strings(kept, lambda text: check_text(text, path), path)
    return checked


def _content(content: Any, path: str, seen: str | bool) -> str | list[dict[str, Any]]:
    """Text, or the parts of a content with images. seen: the role of a message whose images the model may see."""
    if isinstance(content, str):
        return content
    if not _is_list(content):
        raise TemplateError(f"{path} must be text, not {_kind(content)}")
    parts = [(part, f"{path}[{index}]") for index, part in enumerate(content)]
    if not seen or not any(is_image(part) for part in content):
        return "".join(_part(part, place) for part, place in parts)
    if seen != "user":
        raise TemplateError(
            f"{path} holds an image, and only messages of role user can: a message of role {seen} is text"
        )
    return [
        _image(part, place) if is_image(part) else {"type": "text", "text": _part(part, place)}
        for part, place in parts
    ]


def _image(part: Mapping[str, Any], path: str) -> dict[str, Any]:
    if not isinstance(part.get(ROW), int) or SIZE not in part:
        raise TemplateError(
            f"{path} is an image, which only training of the task Chat and chats with a bundle read"
        )
    return {"type": "image", ROW: part[ROW], SIZE: part[SIZE]}


def _part(part: Any, path: str) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind != "text":
        raise TemplateError(f"{path} is of type {kind!r}; this model reads only parts of type 'text'")
    text = part.get("text")
    if not isinstance(text, str):
        raise TemplateError(f"{path}.text must be text, not {_kind(text)}")
    return text


def _tool_calls(calls: Any, path: str) -> list[dict[str, Any]]:
    if not _is_list(calls) or not all(isinstance(call, Mapping) for call in calls):
        raise TemplateError(f"{path} must be a list of objects")
    return [_tool_call(call) for call in calls]


def _tool_call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), str):
        return dict(call)
    try:
        arguments = json.loads(function["arguments"])
    except (ValueError, RecursionError):
        arguments = None  # a model may have written anything; the template shows it unchanged
    return (
        {**call, "function": {**function, "arguments": arguments}}
        if isinstance(arguments, dict)
        else dict(call)
    )


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _kind(value: Any) -> str:
    names = {
        str: "text",
        dict: "an object",
        list: "a list",
        bool: "true or false",
        int: "a number",
        float: "a number",
    }
    return "nothing" if value is None else names.get(type(value), type(value).__name__)
