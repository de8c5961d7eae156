"""Request bodies of Anthropic's Messages API. Strict, as in `schemas`: no field is dropped in silence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from ptune.errors import RequestError

from ..fields import sampling as sampled
from ..fields.image_part import MAX_URI, checked_uri, data_uri
from ..fields.known_fields import Harmless, Request
from ..fields.message import MAX_TOOLS, Body, NotBuilt, Text
from ..fields.typed_parts import one_of, typed_schema
from ..http.errors import UNSUPPORTED
from ..openai.schemas import MAX_MESSAGES, Stops

MAX_BLOCKS = 4096
NOT_BUILT: Harmless = {
    "container": (),
    "context_management": ({},),
    "diagnostics": ({},),
    "inference_geo": (),
    "mcp_servers": ([],),
    "service_tier": ("auto", "standard_only"),
    "speed": ("standard",),
    "user_profile_id": (),
    "workspace_id": (),
}
"""Anthropic's fields that are refused, each with the values that have no effect and are accepted."""


class Part(Body):
    """An object of a request. An unknown key is an error."""

    model_config = ConfigDict(extra="forbid")


class Hinted(Part):
    """A part that may be marked for a cache. Prefixes are reused without that."""

    cache_control: dict[str, Any] | None = None


class TextBlock(Hinted):
    type: Literal["text"]
    text: Text
    citations: NotBuilt = None


class ThinkingBlock(Part):
    type: Literal["thinking"]
    thinking: Text
    signature: Text = ""  # of this server's answers: empty


class ImageSource(Part):
    """The file of an image, in base64."""

    type: Literal["base64"]
    media_type: Annotated[str, Field(max_length=40)]
    data: Annotated[str, Field(max_length=MAX_URI)]

    @model_validator(mode="before")
    @classmethod
    def _is_here(cls, source: Any) -> Any:
        if isinstance(source, dict) and source.get("type") in ("url", "file"):
            message = "an image must be sent as base64: this server fetches nothing from other servers"
            raise PydanticCustomError(UNSUPPORTED, message)
        return source

    @model_validator(mode="after")
    def _is_an_image(self) -> ImageSource:
        checked_uri(self.uri)
        return self

    @property
    def uri(self) -> str:
        """The image as a data URI."""
        return data_uri(self.media_type, self.data)


class ImageBlock(Hinted):
    type: Literal["image"]
    source: ImageSource


class ToolUseBlock(Hinted):
    type: Literal["tool_use"]
    id: Annotated[Text, Field(min_length=1, max_length=256)]
    name: Annotated[Text, Field(min_length=1, max_length=256)]
    input: dict[str, Any]
    caller: NotBuilt = None
    toolset_name: NotBuilt = None


def _text_as_block(content: Any) -> Any:
    """Text is short for one block of text."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _schema(kinds: Mapping[str, type[Body]]) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": typed_schema(kinds)}]})


_TEXTS = {"text": TextBlock}
TextBlocks = Annotated[
    list[Annotated[Any, AfterValidator(one_of(_TEXTS, "a block"))]],  # of TextBlock
    Field(max_length=MAX_BLOCKS),
    BeforeValidator(_text_as_block),
    _schema(_TEXTS),
]


class ToolResultBlock(Hinted):
    type: Literal["tool_result"]
    tool_use_id: Annotated[Text, Field(min_length=1, max_length=256)]
    content: TextBlocks = Field(default=[])
    is_error: bool = False  # accepted, but no template has a place for it: say it in the content
    toolset_name: NotBuilt = None


_BLOCKS: dict[str, type[Body]] = {
    "text": TextBlock,
    "image": ImageBlock,
    "thinking": ThinkingBlock,
    "tool_use": ToolUseBlock,
    "tool_result": ToolResultBlock,
}
Blocks = Annotated[
    list[Annotated[Any, AfterValidator(one_of(_BLOCKS, "a block"))]],
    Field(min_length=1, max_length=MAX_BLOCKS),
    BeforeValidator(_text_as_block),
    _schema(_BLOCKS),
]
_ROLES = {"image": "user", "thinking": "assistant", "tool_use": "assistant", "tool_result": "user"}


class InputMessage(Part):
    """One turn of a conversation."""

    role: Literal["user", "assistant", "system"]
    content: Blocks

    @model_validator(mode="after")
    def _blocks_fit_the_role(self) -> InputMessage:
        for index, block in enumerate(self.content):
            if _ROLES.get(block.type, self.role) != self.role:
                article = "an" if block.type == "image" else "a"
                raise ValueError(
                    f"content[{index}]: {article} {block.type} block cannot be in a message of role {self.role}"
                )
        return self


class CustomTool(Hinted):
    """An entry of `tools`."""

    type: Literal["custom"] = "custom"
    name: Text
    description: Text | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None
    eager_input_streaming: bool | None = None  # accepted: arguments are streamed as they are written
    allowed_callers: NotBuilt = None
    defer_loading: NotBuilt = None
    input_examples: NotBuilt = None

    @model_validator(mode="before")
    @classmethod
    def _no_tool_of_theirs(cls, data: Any) -> Any:
        kind = data.get("type") if isinstance(data, dict) else None
        if isinstance(kind, str) and kind != "custom":
            message = (
                "a tool of type {kind} is not supported; send one with an input_schema and run it yourself"
            )
            raise PydanticCustomError(UNSUPPORTED, message, {"kind": repr(kind[:40])})
        return data


class MessagesToolChoice(Part):
    """`tool_choice`."""

    type: Literal["auto", "any", "tool", "none"]
    name: Text | None = None
    disable_parallel_tool_use: bool = False

    @model_validator(mode="after")
    def _names_a_tool(self) -> MessagesToolChoice:
        if (self.name is not None) != (self.type == "tool"):
            raise ValueError("name is needed with type tool, and only there")
        return self


class Thinking(Part):
    """`thinking`."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int, Field(ge=1)] | None = None
    display: Literal["summarized", "omitted"] | None = None  # both: as it was thought, or not at all

    @model_validator(mode="after")
    def _budget_fits(self) -> Thinking:
        if (self.budget_tokens is not None) != (self.type == "enabled"):
            raise ValueError("budget_tokens is needed with type enabled, and only there")
        return self


class Metadata(Part):
    """`metadata`."""

    user_id: sampled.Caller | None = None


class OutputFormat(Part):
    """The form of an answer."""

    type: Literal["json_schema"]
    json_schema: dict[str, Any] = Field(alias="schema")


class OutputConfig(Part):
    """`output_config`."""

    effort: Annotated[Text, Field(max_length=64)] | None = None
    format: OutputFormat | None = None


class CountTokensRequest(Request):
    """POST /v1/messages/count_tokens"""

    not_built: ClassVar[Harmless] = NOT_BUILT

    model: str = Field(max_length=256)
    messages: list[InputMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    system: TextBlocks = Field(default=[])
    tools: list[CustomTool] = Field(default=[], max_length=MAX_TOOLS)
    tool_choice: MessagesToolChoice = MessagesToolChoice(type="auto")
    thinking: Thinking | None = None
    output_config: OutputConfig = OutputConfig()
    cache_control: dict[str, Any] | None = None  # a hint: prefixes are reused anyway

    @model_validator(mode="after")
    def _results_have_their_calls(self) -> CountTokensRequest:
        called: set[str] = set()
        for turn, message in enumerate(self.messages):
            if message.role == "assistant":
                called = {block.id for block in message.content if isinstance(block, ToolUseBlock)}
            for place, block in enumerate(message.content):
                if isinstance(block, ToolResultBlock) and block.tool_use_id not in called:
                    path = f"messages[{turn}].content[{place}]"
                    told = (
                        f"{path}: the answer before it has no tool_use with the id {block.tool_use_id[:40]!r}"
                    )
                    raise RequestError(told, param=path, code="invalid_value")
        return self


class MessagesRequest(CountTokensRequest):
    """POST /v1/messages"""

    max_tokens: sampled.MaxTokens
    stop_sequences: Stops = Field(default=[])
    stream: bool = False
    temperature: sampled.Temperature | None = None
    top_p: sampled.TopP | None = None
    top_k: sampled.TopK | None = None
    metadata: Metadata = Metadata()
