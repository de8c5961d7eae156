"""What a request says its answer may be: OpenAI's `response_format`, vLLM's `structured_outputs` and `guided_…`."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ptune.codecs.structured_output import Form
from ptune.errors import RequestError

from .schemas import Generate

if TYPE_CHECKING:
    from ptune.engine.decoder.grammar import Grammar

    from .service import ChatService

MAX_PATTERN = 4096


@dataclass(frozen=True, slots=True)
class Asked:
    """A form, and the field that asks for it."""

    form: Form
    param: str


async def compiled(service: ChatService, asked: Asked | None, adapter: str) -> Grammar | None:
    """A form's grammar, made on another thread. Raises: RequestError that names the field where it cannot be made."""
    if asked is None:
        return None
    with naming(asked.param):
        return await asyncio.to_thread(service.model.grammar, asked.form, adapter)


def form_of(body: Generate) -> Asked | None:
    """The form that a request asks for, None where it asks for none.

    Raises: RequestError that names the field where it asks for several, or for one that cannot be.
    """
    asked = {name: ask for name, ask in _asked(body).items() if ask is not None}
    if len(asked) > 1:
        raise RequestError(
            f"only one of {' and '.join(asked)} can be had", param=list(asked)[1], code="invalid_value"
        )
    for name, make in asked.items():
        with naming(name):
            return Asked(make(), name)
    return None


@contextlib.contextmanager
def naming(param: str) -> Iterator[None]:
    """Lets an error about a form name the field that it came from."""
    try:
        yield
    except RequestError as error:
        message = f"{param}: {error}"
        raise RequestError(message, param=param, code=error.code, status=error.status) from None


Maker = Callable[[], Form]


def _asked(body: Generate) -> dict[str, Maker | None]:
    """By the field that asks."""
    wanted, vllm = body.response_format, body.structured_outputs
    kind = None if wanted is None else wanted.type
    schema = wanted.json_schema.json_schema if wanted is not None and wanted.json_schema is not None else {}
    asked: dict[str, Maker | None] = {
        "response_format": None,
        "guided_json": _made(_json, body.guided_json),
        "guided_regex": _made(_regex, body.guided_regex),
        "guided_choice": _made(Form.choice, body.guided_choice),
    }
    if kind is not None and kind != "text":
        asked["response_format"] = lambda: Form.json({"type": "object"} if kind == "json_object" else schema)
    if vllm is not None:
        asked |= {
            "structured_outputs.json": _made(_json, vllm.json_schema),
            "structured_outputs.regex": _made(_regex, vllm.regex),
            "structured_outputs.choice": _made(Form.choice, vllm.choice),
            "structured_outputs.json_object": _made(_json, {"type": "object"} if vllm.json_object else None),
        }
    return asked


def _made(make: Callable[[Any], Form], value: Any) -> Maker | None:
    return None if value is None else lambda: make(value)


def _json(schema: Any) -> Form:
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"is not JSON: {error}", code="invalid_grammar") from None
    return Form.json(schema)


def _regex(pattern: str) -> Form:
    if len(pattern) > MAX_PATTERN:
        raise RequestError(f"may have {MAX_PATTERN} letters (has {len(pattern)})", code="invalid_grammar")
    return Form.regex(pattern)
