"""Items of OpenAI's Responses API: what a conversation is made of there, and the messages of a chat that they stand for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from ptune.errors import RequestError

from ..fields.image_part import checked_uri, image_part
from ..fields.message import Body, NotBuilt, Text
from ..fields.typed_parts import one_of, typed_schema

MAX_ITEMS = 4096
Status = Literal["in_progress", "completed", "incomplete"]
ItemId = Annotated[str, Field(max_length=256)]


class Part(Body):
    """An object of a request. An unknown key is an error."""

    model_config = ConfigDict(extra="forbid")


class InputText(Part):
    type: Literal["input_text"]
    text: Text


class InputImage(Part):
    type: Literal["input_image"]
    image_url: str
    detail: Literal["auto"] = "auto"  # every image is seen in the same detail
    file_id: NotBuilt = None

    @field_validator("image_url")
    @classmethod
    def _is_here(cls, url: str) -> str:
        return checked_uri(url)


class OutputText(Part):
    type: Literal["output_text"]
    text: Text
    annotations: NotBuilt = None
    logprobs: list[Any] | None = None  # accepted: they come with what is sent back


class ReasoningText(Part):
    type: Literal["reasoning_text", "summary_text"]
    text: Text


_TEXTS: dict[str, type[Body]] = {"input_text": InputText, "output_text": OutputText}


def _text_as_part(content: Any) -> Any:
    """Text is short for one part of text."""
    return [{"type": "input_text", "text": content}] if isinstance(content, str) else content


_PARTS: dict[str, type[Body]] = {**_TEXTS, "input_image": InputImage}
Parts = Annotated[
    list[Annotated[Any, AfterValidator(one_of(_PARTS, "a part"))]],  # of InputText, OutputText and InputImage
    Field(max_length=MAX_ITEMS),
    BeforeValidator(_text_as_part),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": typed_schema(_PARTS)}]}),
]
Texts = Annotated[
    list[Annotated[Any, AfterValidator(one_of(_TEXTS, "a part"))]],  # of InputText and OutputText
    Field(max_length=MAX_ITEMS),
    BeforeValidator(_text_as_part),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": typed_schema(_TEXTS)}]}),
]


class MessageItem(Part):
    type: Literal["message"]
    role: Literal["user", "assistant", "system", "developer"]
    content: Parts
    id: ItemId | None = None
    status: Status | None = None
    phase: NotBuilt = None

    @model_validator(mode="after")
    def _images_are_the_users(self) -> MessageItem:
        if self.role != "user" and any(isinstance(part, InputImage) for part in self.content):
            raise ValueError(f"a message of role {self.role} holds no images: only those of role user do")
        return self


class FunctionCall(Part):
    type: Literal["function_call"]
    call_id: Annotated[Text, Field(min_length=1, max_length=256)]
    name: Annotated[Text, Field(min_length=1, max_length=256)]
    arguments: Text
    id: ItemId | None = None
    status: Status | None = None


class FunctionCallOutput(Part):
    type: Literal["function_call_output"]
    call_id: Annotated[Text, Field(min_length=1, max_length=256)]
    output: Texts
    id: ItemId | None = None
    status: Status | None = None


class ReasoningItem(Part):
    type: Literal["reasoning"]
    summary: list[ReasoningText] = Field(default=[], max_length=MAX_ITEMS)
    content: list[ReasoningText] = Field(default=[], max_length=MAX_ITEMS)
    encrypted_content: NotBuilt = None
    id: ItemId | None = None
    status: Status | None = None


_ITEMS: dict[str, type[Body]] = {
    "message": MessageItem,
    "function_call": FunctionCall,
    "function_call_output": FunctionCallOutput,
    "reasoning": ReasoningItem,
}
_read = one_of(_ITEMS, "an item")


def item_of(value: Any) -> Body:
    """An item; one without a type is a message. Raises: ValueError, PydanticCustomError."""
    return _read({"type": "message", **value} if isinstance(value, dict) else value)


def _text_as_item(given: Any) -> Any:
    """Text is short for one message of the user."""
    return [{"role": "user", "content": given}] if isinstance(given, str) else given


Items = Annotated[
    list[Annotated[Any, AfterValidator(item_of)]],  # of the classes above
    Field(min_length=1, max_length=MAX_ITEMS),
    BeforeValidator(_text_as_item),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}]}),
]


def chat_messages(items: Sequence[BaseModel], sent: int = 0) -> list[dict[str, Any]]:
    """The messages of a chat: what is thought, said and called in a row is one answer.

    sent: where in the items the request's own input begins.
    Raises: RequestError for the output of a call that is not there.
    """
    turns: list[dict[str, Any]] = []
    called: set[str] = set()
    for index, item in enumerate(items):
        if isinstance(item, FunctionCallOutput):
            if item.call_id not in called:
                path = f"input[{index - sent}]"
                message = (
                    f"{path}: there is no function_call before it with the call_id {item.call_id[:40]!r}"
                )
                raise RequestError(message, param=path, code="invalid_value")
            turns.append({"role": "tool", "tool_call_id": item.call_id, "content": _joined(item.output)})
        elif isinstance(item, FunctionCall):
            called.add(item.call_id)
            function = {"name": item.name, "arguments": item.arguments}
            calls = _answer(turns).setdefault("tool_calls", [])
            calls.append({"id": item.call_id, "type": "function", "function": function})
        elif isinstance(item, ReasoningItem):
            thought = _joined(item.content or item.summary)
            _answer(turns, "content", "tool_calls", "reasoning_content")["reasoning_content"] = thought
        elif isinstance(item, MessageItem) and item.role == "assistant":
            _answer(turns, "content")["content"] = _joined(item.content)
        elif isinstance(item, MessageItem):
            turns.append({"role": item.role, "content": _said(item.content)})
    for turn in turns:
        turn.setdefault("content", None if "tool_calls" in turn else "")
    return turns


def _answer(turns: list[dict[str, Any]], *absent: str) -> dict[str, Any]:
    """The answer that the next item belongs to: the last turn, unless it has one of these already, or a new one."""
    if not turns or turns[-1]["role"] != "assistant" or any(name in turns[-1] for name in absent):
        turns.append({"role": "assistant"})
    return turns[-1]


def _said(parts: Sequence[Any]) -> str | list[dict[str, Any]]:
    """What is said: text, or parts where images are among it."""
    if not any(isinstance(part, InputImage) for part in parts):
        return _joined(parts)
    return [
        image_part(part.image_url) if isinstance(part, InputImage) else {"type": "text", "text": part.text}
        for part in parts
    ]


def _joined(parts: Iterable[Any]) -> str:
    return "".join(part.text for part in parts)
