"""Request bodies. Types are strict, sizes are limited, `null` means the default.

A field that is not known is ignored, as OpenAI's clients expect; one that is known and would change the answer, but
is not built yet, is refused by name: it must not be dropped silently.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from ptune.engine.request import Sampling
from ptune.errors import RequestError

from .errors import UNSUPPORTED

MAX_MESSAGES = 4096
MAX_PROMPTS = 128
MAX_STOPS = 16
MAX_LOGPROBS = 20

NOT_BUILT: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "modalities": (["text"],),
    "n": (1,),
    "response_format": ({"type": "text"},),
    "structured_outputs": (),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "use_beam_search": (False,),
    "web_search_options": (),
}
"""Fields that are refused, and those of their values that ask for nothing and so may pass."""


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not hold a NUL character")
    return text


def _content(content: Any) -> Any:
    """A message's text or text parts as they are: what becomes of them is the codec's business, as in training."""
    if isinstance(content, str):
        return _no_nul(content)
    if not isinstance(content, list):
        raise ValueError("must be a string or a list of text parts")
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text":
            raise PydanticCustomError(
                "part", "a part of type {kind} is not supported yet; send text", {"kind": repr(kind)[:40]}
            )
        if not isinstance(part.get("text"), str):
            raise PydanticCustomError("part", "a text part needs a string in `text`")
        _no_nul(part["text"])
    return content


def _nothing(value: Any) -> None:
    """Lets what asks for nothing pass, as an empty list of tool calls does."""
    if value:
        raise PydanticCustomError(UNSUPPORTED, "is not supported yet")


def _listed(stop: Any) -> Any:
    return [stop] if isinstance(stop, str) else stop


def _is_token_ids(value: Any) -> bool:
    # `type` and not isinstance: JSON's true is no token
    return isinstance(value, list) and bool(value) and all(type(item) is int and item >= 0 for item in value)


def _prompts(prompt: Any) -> Any:
    """One prompt or several as a list. Checked here and not by a union, whose errors name no place."""
    prompts = [prompt] if isinstance(prompt, str) or _is_token_ids(prompt) else prompt
    if not isinstance(prompts, list) or not all(
        isinstance(item, str) or _is_token_ids(item) for item in prompts
    ):
        raise ValueError("must be a string, a list of token ids, or a list of those; none of them empty")
    for text in prompts:
        if isinstance(text, str):
            _no_nul(text)
    return prompts


Text = Annotated[str, AfterValidator(_no_nul)]
Content = Annotated[Any, AfterValidator(_content)]  # str, or a list of text parts
NotBuilt = Annotated[None, BeforeValidator(_nothing)]
Stop = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_no_nul)]
Stops = Annotated[list[Stop], Field(max_length=MAX_STOPS), BeforeValidator(_listed)]
Prompts = Annotated[
    list[str | list[int]], Field(min_length=1, max_length=MAX_PROMPTS), BeforeValidator(_prompts)
]
TokenKey = Annotated[int, Field(strict=False)]  # JSON's keys are strings


class Body(BaseModel):
    """Strict, frozen, `null` is the default."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _null_is_default(cls, data: Any) -> Any:
        return (
            {name: value for name, value in data.items() if value is not None}
            if isinstance(data, dict)
            else data
        )


class StreamOptions(Body):
    """What a stream holds besides its text."""

    include_usage: bool = False


class Generate(Body):
    """What both endpoints share."""

    model: str = Field(max_length=256)
    stream: bool = False
    stream_options: StreamOptions | None = None
    stop: Stops = []
    temperature: float = Field(default=1.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=-1)  # 0 and, as in vLLM, -1: off
    min_p: float = Field(default=0.0, ge=0, le=1)
    repetition_penalty: float = Field(default=1.0, gt=0, le=10)
    frequency_penalty: float = Field(default=0.0, ge=-2, le=2)
    presence_penalty: float = Field(default=0.0, ge=-2, le=2)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    return_token_ids: bool = False  # vLLM's extension: each choice has its `token_ids`
    logit_bias: dict[TokenKey, Annotated[float, Field(ge=-100, le=100)]] = Field(default={}, max_length=1024)

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_is_not_built(cls, data: Any) -> Any:
        """Raises: RequestError that names the field."""
        for name in NOT_BUILT.keys() & data.keys() if isinstance(data, dict) else ():
            if data[name] is not None and data[name] not in NOT_BUILT[name]:
                raise RequestError(f"{name} is not supported yet", param=name, code=UNSUPPORTED)
        return data

    @model_validator(mode="after")
    def _stream_fits_its_options(self) -> Generate:
        if self.return_token_ids and self.stream:
            raise RequestError(
                "return_token_ids is not supported in a stream yet",
                param="return_token_ids",
                code=UNSUPPORTED,
            )
        if self.stream_options is not None and not self.stream:
            raise RequestError(
                "stream_options needs stream: true", param="stream_options", code="invalid_value"
            )
        return self

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling(self) -> Sampling:
        """The sampling fields as the engine takes them."""
        return Sampling(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=max(self.top_k, 0),
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            frequency_penalty=self.frequency_penalty,
            presence_penalty=self.presence_penalty,
            seed=self.seed,
            logit_bias=self.logit_bias,
        )


class Message(Body):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    name: Text | None = None
    reasoning_content: Text | None = None  # what came before an answer; templates show it or leave it out
    reasoning: Text | None = None  # other names of it
    thinking: Text | None = None
    audio: NotBuilt = None
    function_call: NotBuilt = None
    refusal: NotBuilt = None
    tool_call_id: NotBuilt = None
    tool_calls: NotBuilt = None

    def raw(self) -> dict[str, Any]:
        """As it was sent, for the codec."""
        return self.model_dump(exclude_none=True)


class ChatRequest(Generate):
    """POST /v1/chat/completions"""

    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool = False
    top_logprobs: int = Field(default=0, ge=0, le=MAX_LOGPROBS)

    @model_validator(mode="after")
    def _top_needs_logprobs(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise RequestError(
                "top_logprobs needs logprobs: true", param="top_logprobs", code="invalid_value"
            )
        return self

    @property
    def limit(self) -> int | None:
        """Most tokens of the answer; None = as many as fit."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class CompletionRequest(Generate):
    """POST /v1/completions"""

    prompt: Prompts
    max_tokens: int = Field(default=16, ge=0)
    echo: bool = False
    logprobs: int | None = Field(default=None, ge=0, le=MAX_LOGPROBS)
