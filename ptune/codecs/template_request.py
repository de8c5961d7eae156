"""What one request may ask of a chat template: variables of its own, and an answer that goes on where it ends."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

from ptune.codecs.template import ChatTemplate, Message, Tools
from ptune.errors import RequestError

Variables: TypeAlias = Mapping[str, str | int | float | bool | None]

NO_VARIABLES: Variables = MappingProxyType({})
MAX_VARIABLES = 32
MAX_TEXT = 4096
PARAM = "chat_template_kwargs"
_OWN_FIELDS = ("messages", "tools", "documents", "add_generation_prompt", "continue_final_message")


def require_variables(template: ChatTemplate, taken: Collection[str], variables: Variables) -> None:
    """Checks variables for a template. taken: variables that have a value already.

    Raises: RequestError for too many, a value that is no JSON scalar, and a name that is taken or that the template
    does not read.
    """
    if len(variables) > MAX_VARIABLES:
        raise _refusal(f"has {len(variables)} variables; at most {MAX_VARIABLES}")
    for name, value in variables.items():
        if name in _OWN_FIELDS:
            raise _refusal(f"{name} has a field of its own in the request, or none; send it there")
        if name in taken or name.startswith("_"):
            raise _refusal(f"{name[:40]!r} is set by the model itself")
        if name not in template.variables:
            # OpenAI's reasoning_effort is a field of its own, and a variable of templates
            param = name if name == "reasoning_effort" else PARAM
            message = f"{param}: {_unread(template, taken, name)}; leave it out"
            raise RequestError(message, param=param, code="invalid_value")
        _require_scalar(name, value)


def with_defaults(source: str, variables: Variables) -> str:
    """A template's source in which variables that it reads have these values where none are given, for other servers.

    It begins on a line of its own, which it would not be read from otherwise: blanks before its first block are no text, and a
    line end is.
    """
    values = {
        name: "none" if value is None else json.dumps(value, ensure_ascii=False)
        for name, value in variables.items()
    }
    set_ = (
        f"{{% if {name} is not defined %}}{{% set {name} = {value} %}}{{% endif %}}"
        for name, value in values.items()
    )
    return "".join([*set_, "\n"]) + source if values else source


def render_open(
    template: ChatTemplate, messages: Sequence[Message], mark: str, tools: Tools | None, variables: Variables
) -> str:
    """A conversation as text up to the end of its last message, which is an answer that goes on.

    As transformers does with `continue_final_message`: the mark is put at the message's end, and the text is cut there.
    mark: a character that occurs nowhere else.
    Raises: RequestError where the last message is no answer with text, or the template does not show its end.
    """
    answer = open_answer(messages)
    tagged = [*messages[:-1], {**messages[-1], "content": f"{answer}{mark} "}]
    text = template.render(tagged, tools=tools, add_generation_prompt=False, **dict[str, Any](variables))
    at = text.rfind(mark)
    if at < 0 or answer.strip() not in text:
        raise _cannot_continue("the chat template does not show the last message as it is")
    # The space behind the mark is gone where the template strips messages; then so is the answer's own at its end.
    return text[:at] if text.startswith(f"{mark} ", at) else text[:at].rstrip()


def open_answer(messages: Sequence[Message]) -> str:
    """The text of the last message. Raises: RequestError where that is no answer with text."""
    text = messages[-1].get("content")
    if messages[-1]["role"] != "assistant" or not isinstance(text, str):
        raise _cannot_continue(
            "it goes on with an answer: the last message must be of role assistant, with text"
        )
    return text


def _unread(template: ChatTemplate, taken: Collection[str], name: str) -> str:
    known = sorted(
        other
        for other in template.variables
        if other not in (*_OWN_FIELDS, *taken, "raise_exception", "strftime_now")
        and not other.startswith("_")
    )
    reads = f"it reads {', '.join(known)[:200]}" if known else "it reads none"
    return f"the chat template of this model does not read {name[:40]!r} ({reads})"


def _require_scalar(name: str, value: object) -> None:
    if isinstance(value, str):
        if len(value) > MAX_TEXT or "\0" in value:
            raise _refusal(f"{name} is a text of over {MAX_TEXT} characters, or holds a NUL character")
    elif value is not None and not isinstance(value, bool | int | float):
        raise _refusal(f"{name} must be a text, a number, true, false or null")
    elif isinstance(value, float) and not math.isfinite(value):
        raise _refusal(f"{name} must be finite")


def _cannot_continue(reason: str) -> RequestError:
    message = f"continue_final_message: {reason}"
    return RequestError(message, param="continue_final_message", code="invalid_value")


def _refusal(message: str) -> RequestError:
    return RequestError(f"{PARAM}: {message}", param=PARAM, code="invalid_value")
