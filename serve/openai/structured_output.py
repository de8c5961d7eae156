"""Reads structured output from a request: OpenAI's `response_format`, vLLM's `structured_outputs` and `guided_…`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from ptune.codecs.structural_tag import Pieces, structural_tag
from ptune.codecs.structured_output import MAX_PATTERN, StructuredOutput
from ptune.errors import RequestError

from .schemas import Generate

if TYPE_CHECKING:
    from ptune.codecs.chat import ChatCodec
    from ptune.codecs.reading import Reading
    from ptune.engine.decoder.answers.grammar import Grammar

    from ..service import ChatService

_waiting = ThreadPoolExecutor(max_workers=32, thread_name_prefix="ptune-form")


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """A structured output, and the request's field that it came from."""

    output: StructuredOutput
    param: str


def after_reasoning(requested: RequestedOutput | None, reading: Reading | None) -> RequestedOutput | None:
    """The same for an answer that may think first, which has no form."""
    if requested is None or reading is None:
        return requested
    return replace(requested, output=reading.formed(requested.output))


async def compile_grammar(
    service: ChatService, requested: RequestedOutput | None, adapter: str
) -> Grammar | None:
    """Compiles the grammar on a thread of its own kind: where many wait, prompts are encoded all the same.

    Raises: RequestError that names the field if it cannot be compiled.
    """
    if requested is None:
        return None
    with naming_field(requested.param):
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(_waiting, service.model.grammar, requested.output, adapter)


def requested_output(body: Generate, codec: ChatCodec) -> RequestedOutput | None:
    """The structured output that a request asks for; None if it asks for none. codec: of the adapter that answers.

    Raises: RequestError that names the field if several fields ask for one, or if one cannot be enforced.
    """
    builders = {name: build for name, build in _builders(body, codec.pieces).items() if build is not None}
    if len(builders) > 1:
        raise RequestError(
            f"send only one of {' and '.join(builders)}", param=list(builders)[1], code="invalid_value"
        )
    for name, build in builders.items():
        with naming_field(name):
            return RequestedOutput(build(), name)
    return None


@contextlib.contextmanager
def naming_field(param: str) -> Iterator[None]:
    """Adds the field's name to errors about a structured output."""
    try:
        yield
    except RequestError as error:
        message = f"{param}: {error}"
        raise RequestError(message, param=param, code=error.code, status=error.status) from None


Builder = Callable[[], StructuredOutput]


def _builders(body: Generate, pieces: Pieces) -> dict[str, Builder | None]:
    """What builds the output, by the field that asks for it; None for a field that was not sent."""
    openai, vllm = body.response_format, body.structured_outputs
    kind = None if openai is None else openai.type
    schema = openai.json_schema.json_schema if openai is not None and openai.json_schema is not None else {}
    builders: dict[str, Builder | None] = {
        "response_format": None,
        "guided_json": _builder(_json, body.guided_json),
        "guided_regex": _builder(_regex, body.guided_regex),
        "guided_choice": _builder(StructuredOutput.choice, body.guided_choice),
        "guided_grammar": _builder(StructuredOutput.lark, body.guided_grammar),
    }
    if openai is not None and kind == "structural_tag":
        tag = openai.model_dump(include={"format", "structures", "triggers"}, exclude_none=True)
        builders["response_format"] = lambda: structural_tag(tag, pieces)
    elif kind is not None and kind != "text":
        json_schema = {"type": "object"} if kind == "json_object" else schema
        builders["response_format"] = lambda: StructuredOutput.json(json_schema)
    if vllm is not None:
        builders |= {
            "structured_outputs.json": _builder(_json, vllm.json_schema),
            "structured_outputs.regex": _builder(_regex, vllm.regex),
            "structured_outputs.choice": _builder(StructuredOutput.choice, vllm.choice),
            "structured_outputs.grammar": _builder(StructuredOutput.lark, vllm.grammar),
            "structured_outputs.json_object": _builder(
                _json, {"type": "object"} if vllm.json_object else None
            ),
            "structured_outputs.structural_tag": _builder(
                lambda tag: structural_tag(_parsed(tag), pieces), vllm.structural_tag
            ),
        }
    return builders


def _builder(build: Callable[[Any], StructuredOutput], value: Any) -> Builder | None:
    return None if value is None else lambda: build(value)


def _json(schema: Any) -> StructuredOutput:
    return StructuredOutput.json(_parsed(schema))


def _parsed(value: Any) -> Any:
    """A value that was sent as it is, or as JSON, which is read as bodies are: half of a surrogate pair is no text."""
    if not isinstance(value, str):
        return value
    try:
        return from_json(value)
    except ValueError as error:
        raise RequestError(f"is not JSON: {error}", code="invalid_grammar") from None


def _regex(pattern: str) -> StructuredOutput:
    if len(pattern) > MAX_PATTERN:
        raise RequestError(
            f"may have at most {MAX_PATTERN} characters (has {len(pattern)})", code="invalid_grammar"
        )
    return StructuredOutput.regex(pattern)
