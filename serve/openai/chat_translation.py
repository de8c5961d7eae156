"""From another API's request to a chat's, and from a chat's errors to that API's names."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ptune.errors import RequestError, TemplateError

from ..http.errors import invalid
from .schemas import ChatRequest

if TYPE_CHECKING:
    from ptune.codecs.chat import ChatCodec

_SWITCHES = ("enable_thinking", "thinking")  # the variables of Qwen's and of DeepSeek's templates


def chat_request(fields: Mapping[str, Any]) -> ChatRequest:
    """The chat that another API's request asks for; None stands for a field's default. Raises: RequestError(400)."""
    try:
        return ChatRequest.model_validate(dict(fields))
    except ValidationError as error:
        raise invalid(error) from None


@contextlib.contextmanager
def renaming(names: Mapping[str, str]) -> Iterator[None]:
    """Errors name fields as the client sent them. names: of the client's fields, by those of a chat.

    A name that is an English word, too, is replaced only where a message begins with it.
    """
    try:
        yield
    except TemplateError as error:
        place = names.get("messages", "messages")
        raise RequestError(str(error), param=place, code="invalid_value") from None
    except RequestError as error:
        message, param = str(error), error.param
        for ours, theirs in names.items():
            begins = rf"^{re.escape(ours)}(?!\w)"
            message = re.sub(rf"(?<!\w){begins[1:]}" if "_" in ours else begins, theirs, message)
            param = None if param is None else re.sub(begins, theirs, param)
        if (message, param) == (str(error), error.param):
            raise
        error.args, error.param = (message,), param
        raise


def switched_thinking(codec: ChatCodec, *, on: bool) -> dict[str, Any]:
    """The fields of a chat that switch thinking on or off: a variable of the template, or else a budget of nothing.

    Raises: RequestError if it is to be switched on, but nothing marks what this model thinks.
    """
    if codec.reasoning_format is None:
        if on:
            message = "thinking: the chat template of this model marks no reasoning; leave it out"
            raise RequestError(message, param="thinking", code="invalid_value")
        return {}
    read = frozenset[str]() if codec.template is None else codec.template.variables
    for name in _SWITCHES:
        if name in read:
            return {"chat_template_kwargs": {name: on}}
    return {} if on else {"thinking_token_budget": 0}
