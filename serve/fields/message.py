"""Schemas of the parts of a conversation: messages, tool calls, tools."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from ..http.errors import UNKNOWN, UNSUPPORTED
from .image_part import SCHEMA as _IMAGE_PART
from .image_part import check_image_part

_PART_KEYS = ("type", "text", "cache_control")  # the last is Anthropic's hint, which clients send everywhere

MAX_TOOLS = 128
MAX_CALLS = 128


def no_nul(text: str) -> str:
    """Returns the text. Raises: ValueError if it has a NUL character."""
    if "\0" in text:
        raise ValueError("must not hold a NUL character")
    return text


def finite(value: Any) -> Any:
    """Returns a value of JSON. Raises: ValueError for infinity, which Python reads for 1e400, and which no answer may hold."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        raise ValueError("every number must be finite") from None
    return value


def _content(content: Any) -> Any:
    """Checks a message's text or parts, and returns them unchanged for the codec, which handles them as in training."""
    if isinstance(content, str):
        return no_nul(content)
    if not isinstance(content, list):
        raise ValueError("must be a string or a list of parts")
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "image_url":
            check_image_part(part)
            continue
        if kind != "text":
            raise PydanticCustomError(
                "part", "a part of type {kind} is not supported yet; send text", {"kind": repr(kind)[:40]}
            )
        if not isinstance(part.get("text"), str):
            raise PydanticCustomError("part", "a text part needs a string in `text`")
        no_nul(part["text"])
        if unknown := [key for key in part if key not in _PART_KEYS and part[key] is not None]:
            message = "a text part has no key {key}; leave it out"
            raise PydanticCustomError(UNKNOWN, message, {"key": repr(unknown[0])[:40]})
    return content


def _nothing(value: Any) -> None:
    """Accepts only a value without effect, such as an empty list."""
    if value:
        raise PydanticCustomError(UNSUPPORTED, "is not supported yet")


class Body(BaseModel):
    """A request body, or a part of one: strict, frozen, `null` means the default."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _null_is_default(cls, data: Any) -> Any:
        return (
            {name: value for name, value in data.items() if value is not None}
            if isinstance(data, dict)
            else data
        )


def as_sent(kind: type[Body]) -> Callable[[Any], Any]:
    """A validator that checks a value but returns it as it was sent, because templates write out what they get."""

    def check(value: Any) -> Any:
        try:
            kind.model_validate(value)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            path = ".".join(map(str, problem["loc"]))
            message = problem["msg"].removeprefix("Value error, ")
            raise ValueError(f"{path}: {message}" if path else message) from None
        return value

    return check


Text = Annotated[str, AfterValidator(no_nul)]
_TEXT_PART = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
    "required": ["type", "text"],
}
Content = Annotated[
    Any,  # str, or a list of parts
    AfterValidator(_content),
    WithJsonSchema(
        {"anyOf": [{"type": "string"}, {"type": "array", "items": {"anyOf": [_TEXT_PART, _IMAGE_PART]}}]}
    ),
]
NotBuilt = Annotated[None, BeforeValidator(_nothing)]


class CalledFunction(Body):
    """The function of a tool call."""

    name: Annotated[Text, Field(min_length=1, max_length=256)]
    arguments: Text = "{}"  # JSON


class ToolCall(Body):
    """A tool call in an earlier answer."""

    id: Annotated[Text, Field(min_length=1, max_length=256)]
    type: Literal["function"] = "function"
    function: CalledFunction


class Function(Body):
    """A function that the model may call."""

    name: str = Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")
    description: Text = ""
    parameters: dict[str, Any] | None = None  # a JSON schema
    strict: bool = False


class Tool(Body):
    """An entry of `tools`."""

    type: Literal["function"]
    function: Function


def _named(kind: type[Body]) -> WithJsonSchema:
    """The JSON schema of a value that `as_sent` checks."""
    return WithJsonSchema({"$ref": f"#/components/schemas/{kind.__name__}"})


ToolCalls = Annotated[
    list[Annotated[Any, AfterValidator(as_sent(ToolCall)), _named(ToolCall)]],
    Field(max_length=MAX_CALLS),
]
Tools = Annotated[
    list[Annotated[Any, AfterValidator(as_sent(Tool)), _named(Tool)]], Field(max_length=MAX_TOOLS)
]


class Message(Body):
    """One turn of a conversation. A key that nobody knows is refused: a template might have read it in training."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content = None
    name: Text | None = None
    reasoning_content: Text | None = None  # templates include it or leave it out
    reasoning: Text | None = None  # other names for reasoning_content
    thinking: Text | None = None
    tool_calls: ToolCalls = []
    tool_call_id: Text | None = None
    annotations: NotBuilt = None
    audio: NotBuilt = None
    function_call: NotBuilt = None
    refusal: NotBuilt = None

    @model_validator(mode="after")
    def _fits_its_role(self) -> Message:
        if self.tool_calls and self.role != "assistant":
            raise ValueError(f"a message of role {self.role} has no tool_calls")
        if (self.tool_call_id is not None) != (self.role == "tool"):
            raise ValueError("tool_call_id is needed in messages of role tool, and only there")
        if (
            self.role != "user"
            and isinstance(self.content, list)
            and any(part["type"] != "text" for part in self.content)
        ):
            raise ValueError(f"a message of role {self.role} holds no images: only those of role user do")
        if self.content is None and not self.tool_calls:
            raise ValueError("content is missing")
        return self

    def raw(self) -> dict[str, Any]:
        """The message as it was sent, for the codec."""
        sent = self.model_dump(exclude_none=True)
        return sent if self.tool_calls else {name: sent[name] for name in sent if name != "tool_calls"}
