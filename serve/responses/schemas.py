"""The request body of OpenAI's Responses API. Strict, as in `schemas`: no field is dropped in silence."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from ptune.errors import RequestError

from ..fields import sampling as sampled
from ..fields.known_fields import Harmless, Request
from ..fields.message import MAX_TOOLS, Text, finite
from ..http.errors import UNSUPPORTED
from .items import Items, Part

NOT_BUILT: Harmless = {
    "access_programs": ({},),
    "background": (False,),
    "background_options": ({},),
    "context_management": ([],),
    "conversation": (),
    "image": ({},),
    "max_tool_calls": (),
    "moderation": (),
    "prompt": (),
    "prompt_cache_options": ({},),
    "prompt_cache_retention": ("in_memory",),
    "service_tier": ("auto", "default"),
    "top_logprobs": (0,),
    "truncation": ("disabled",),
}
"""OpenAI's fields that are refused, each with the values that have no effect and are accepted."""


def _included(include: Any) -> Any:
    """Refuses all that could be included but reasoning, which is in the answer anyway."""
    for name in include if isinstance(include, list) else ():
        if name != "reasoning.encrypted_content":
            message = "{name} cannot be included"
            raise PydanticCustomError(UNSUPPORTED, message, {"name": repr(name)[:60]})
    return include


def _tool_choice(choice: Any) -> Any:
    if choice in ("none", "auto", "required"):
        return choice
    if isinstance(choice, dict) and set(choice) == {"type", "name"} and choice["type"] == "function":
        return choice
    raise ValueError('must be "none", "auto", "required" or {"type": "function", "name": …}')


_NAMED = {
    "type": "object",
    "properties": {"type": {"const": "function"}, "name": {"type": "string"}},
    "required": ["type", "name"],
}


class FunctionTool(Part):
    """An entry of `tools`."""

    type: Literal["function"]
    name: Text
    description: Text | None = None
    parameters: Annotated[dict[str, Any], AfterValidator(finite)] | None = None  # the response repeats it
    strict: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _functions_alone(cls, data: Any) -> Any:
        kind = data.get("type") if isinstance(data, dict) else None
        if isinstance(kind, str) and kind != "function":
            message = "a tool of type {kind} is not supported; send a function and run it yourself"
            raise PydanticCustomError(UNSUPPORTED, message, {"kind": repr(kind[:40])})
        return data


class TextFormat(Part):
    """The form of an answer."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: Text | None = None
    description: Text | None = None  # accepted, but the model does not see it
    json_schema: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None  # accepted, but answers match the schema either way

    @model_validator(mode="after")
    def _has_its_schema(self) -> TextFormat:
        if (self.json_schema is not None) != (self.type == "json_schema"):
            raise ValueError("a schema is needed with type json_schema, and only there")
        return self


class TextConfig(Part):
    """`text`."""

    format: TextFormat = TextFormat()
    verbosity: Literal["medium"] | None = None


class ReasoningConfig(Part):
    """`reasoning`. summary: accepted, but none is written; reasoning comes as it was thought."""

    effort: Annotated[Text, Field(max_length=64)] | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None


class ResponsesStreamOptions(Part):
    """`stream_options`."""

    include_obfuscation: Literal[False] = False


class ResponsesRequest(Request):
    """POST /v1/responses"""

    not_built: ClassVar[Harmless] = NOT_BUILT

    model: str = Field(max_length=256)
    input: Items
    instructions: Text | None = None
    previous_response_id: str | None = Field(default=None, max_length=256)
    store: bool = True
    stream: bool = False
    stream_options: ResponsesStreamOptions | None = None
    tools: list[FunctionTool] = Field(default=[], max_length=MAX_TOOLS)
    tool_choice: Annotated[
        Any,  # a word, or {"type": "function", "name": …}
        BeforeValidator(_tool_choice),
        WithJsonSchema({"anyOf": [{"enum": ["none", "auto", "required"]}, _NAMED]}),
    ] = "auto"
    parallel_tool_calls: bool = True
    text: TextConfig = TextConfig()
    reasoning: ReasoningConfig = ReasoningConfig()
    max_output_tokens: sampled.MaxTokens | None = None
    temperature: sampled.Temperature | None = None
    top_p: sampled.TopP | None = None
    include: Annotated[list[str], BeforeValidator(_included)] = Field(default=[], max_length=16)
    metadata: dict[
        Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]
    ] = Field(default={}, max_length=16)  # fmt: skip
    user: sampled.Caller | None = None
    safety_identifier: sampled.Caller | None = None
    prompt_cache_key: sampled.Caller | None = None  # a hint: prefixes are reused anyway

    @model_validator(mode="after")
    def _options_of_a_stream(self) -> ResponsesRequest:
        if self.stream_options is not None and not self.stream:
            message = "stream_options needs stream: true"
            raise RequestError(message, param="stream_options", code="invalid_value")
        return self

    @property
    def caller(self) -> str | None:
        """Selects the adapter of an alias with a canary."""
        return self.user or self.safety_identifier
