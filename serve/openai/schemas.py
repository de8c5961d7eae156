"""Request bodies. Types are strict, sizes are limited, `null` means the default.

No field is dropped in silence: `known_fields` refuses by name what is not built, and what nobody knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from ptune.engine.decoder.request import Beams
from ptune.engine.sampling import Sampling
from ptune.errors import RequestError
from ptune.tasks.chat.token_options import TokenOptions

from ..encoders.retrieval_schemas import Cut
from ..fields import sampling as sampled
from ..fields.known_fields import NOT_BUILT, THINKING, Harmless, Request
from ..fields.message import Body, Message, Text, Tools, no_nul
from ..http.errors import UNSUPPORTED
from .rendering import Rendered, Rendering
from .tool_choice import ToolChoice

MAX_MESSAGES = 4096
MAX_PROMPTS = 128
MAX_SEQUENCES = 128
MAX_STOPS = 16
MAX_LOGPROBS = 20
MAX_PROMPT_LOGPROBS = 1 << 17  # entries of one answer's prompt_logprobs, some 100 bytes each
MAX_CHOICES = 1024
MAX_STOP_TOKENS = 128


def _listed(stop: Any) -> Any:
    return [stop] if isinstance(stop, str) else stop


def _is_token_ids(value: Any) -> bool:
    # `type` instead of isinstance: JSON's true is not a token
    return isinstance(value, list) and bool(value) and all(type(item) is int and item >= 0 for item in value)


def _prompts(prompt: Any) -> Any:
    """One or several prompts as a list. A union would report errors without their position."""
    prompts = [prompt] if isinstance(prompt, str) or _is_token_ids(prompt) else prompt
    if not isinstance(prompts, list) or not all(
        isinstance(item, str) or _is_token_ids(item) for item in prompts
    ):
        raise ValueError("must be a string, a list of token ids, or a list of those, and not empty")
    for text in prompts:
        if isinstance(text, str):
            no_nul(text)
    return prompts


_ONE_OR_MORE_TEXTS: dict[str, Any] = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]
}
_TOKENS: dict[str, Any] = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
_ANY_PROMPT = {"type": "array", "items": {"anyOf": [{"type": "string"}, _TOKENS]}, "minItems": 1}
Stop = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(no_nul)]
Stops = Annotated[
    list[Stop], Field(max_length=MAX_STOPS), BeforeValidator(_listed), WithJsonSchema(_ONE_OR_MORE_TEXTS)
]
Prompts = Annotated[
    list[str | list[int]],
    Field(min_length=1, max_length=MAX_PROMPTS),
    BeforeValidator(_prompts),
    WithJsonSchema({"anyOf": [{"type": "string"}, _TOKENS, _ANY_PROMPT]}),
]
TokenId = Annotated[int, Field(ge=0)]
TokenKey = Annotated[int, Field(strict=False)]  # a JSON key is a string
Schema = dict[str, Any] | str
Choices = Annotated[list[Annotated[Text, Field(min_length=1)]], Field(min_length=1, max_length=MAX_CHOICES)]


class StreamOptions(Request):
    """`stream_options`."""

    not_built: ClassVar[Harmless] = {}

    include_usage: bool = False
    include_obfuscation: Literal[False] = False  # OpenAI's padding of chunks
    continuous_usage_stats: Literal[False] = False  # vLLM's usage in every chunk


class NamedSchema(Body):
    """The schema of a `response_format` of type json_schema."""

    model_config = ConfigDict(extra="forbid")

    name: Text
    description: Text | None = None  # accepted, but the model does not see it
    json_schema: dict[str, Any] = Field(alias="schema")
    strict: bool = False  # accepted, but answers match the schema either way


class ResponseFormat(Body):
    """OpenAI's field for structured output."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text", "json_object", "json_schema", "structural_tag"]
    json_schema: NamedSchema | None = None
    format: dict[str, Any] | None = None  # of a structural tag
    structures: list[dict[str, Any]] | None = None  # of one in its older shape
    triggers: list[str] | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> ResponseFormat:
        if self.type == "json_schema" and self.json_schema is None:
            raise ValueError("a json_schema is missing")
        for name in ("format", "structures", "triggers"):
            if self.type != "structural_tag" and getattr(self, name) is not None:
                raise ValueError(f"{name} needs type structural_tag")
        return self


_STRUCTURES = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")


class StructuredOutputs(Body):
    """vLLM's field for structured output."""

    json_schema: Schema | None = Field(default=None, alias="json")
    regex: Text | None = None
    choice: Choices | None = None
    grammar: Text | None = None  # Lark
    json_object: bool = False
    structural_tag: Schema | None = None  # as in ResponseFormat, as JSON or as it is

    @model_validator(mode="before")
    @classmethod
    def _refuse_the_rest(cls, data: Any) -> Any:
        for name in data if isinstance(data, dict) else ():
            if name not in _STRUCTURES and data[name]:
                raise ValueError(f"{name[:40]} is not supported")
        return data


class Generate(Request):
    """Fields of both endpoints."""

    not_built: ClassVar[Harmless] = NOT_BUILT

    model: str = Field(max_length=256)
    n: int = Field(default=1, ge=1, le=MAX_SEQUENCES)
    best_of: int | None = Field(default=None, ge=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    stop: Stops = Field(default=[])
    temperature: sampled.Temperature = 1.0
    top_p: sampled.TopP = 1.0
    top_k: sampled.TopK = 0
    min_p: sampled.MinP = 0.0
    repetition_penalty: sampled.RepetitionPenalty = 1.0
    frequency_penalty: sampled.Penalty = 0.0
    presence_penalty: sampled.Penalty = 0.0
    num_beams: int = Field(
        default=1, ge=1, le=MAX_SEQUENCES
    )  # 2 or more: beam search, with transformers' names
    length_penalty: float = Field(default=1.0, ge=-10, le=10)
    early_stopping: bool | Literal["never"] = False
    seed: sampled.Seed | None = None
    min_tokens: int = Field(default=0, ge=0)
    ignore_eos: bool = False
    stop_token_ids: list[TokenId] = Field(default=[], max_length=MAX_STOP_TOKENS)
    bad_words: list[Annotated[Text, Field(min_length=1, max_length=256)]] = Field(default=[], max_length=128)
    allowed_token_ids: list[TokenId] | None = Field(default=None, min_length=1, max_length=1 << 20)
    truncate_prompt_tokens: Cut | None = None  # to so many tokens; -1: as many as leave room for max_tokens
    truncation_side: Literal["left", "right"] = "left"  # the side that is cut off
    user: sampled.Caller | None = None
    safety_identifier: sampled.Caller | None = None  # OpenAI's newer name of `user`
    prompt_cache_key: str | None = Field(default=None, max_length=1024)  # a hint: prefixes are reused anyway
    prompt_logprobs: int | None = Field(default=None, ge=0, le=MAX_LOGPROBS)  # vLLM's, of the prompt's tokens
    return_token_ids: bool = False  # vLLM's extension: each choice has its `token_ids`
    logit_bias: dict[TokenKey, Annotated[float, Field(ge=-100, le=100)]] = Field(default={}, max_length=1024)
    response_format: ResponseFormat | None = None
    guided_json: Schema | None = None  # vLLM's older names for structured_outputs
    guided_regex: Text | None = None
    guided_choice: Choices | None = None
    guided_grammar: Text | None = None
    structured_outputs: StructuredOutputs | None = None

    @model_validator(mode="after")
    def _fields_fit_each_other(self) -> Generate:
        if self.best_of not in (None, self.n):
            raise RequestError(
                f"best_of other than n is not supported yet (is {self.best_of}, n is {self.n})",
                param="best_of",
                code=UNSUPPORTED,
            )
        if self.prompt_logprobs is not None and self.stream:
            message = "prompt_logprobs come with a whole answer: send stream: false"
            raise RequestError(message, param="prompt_logprobs", code=UNSUPPORTED)
        if self.stream_options is not None and not self.stream:
            raise RequestError(
                "stream_options needs stream: true", param="stream_options", code="invalid_value"
            )
        return self

    @model_validator(mode="after")
    def _beams_find_one_answer(self) -> Generate:
        if self.num_beams > 1 and self.n > 1:
            message = f"n must be 1 with num_beams, which gives the best answer (is {self.n})"
            raise RequestError(message, param="n", code="invalid_value")
        for name, default in (("length_penalty", 1.0), ("early_stopping", False)):
            if self.num_beams == 1 and getattr(self, name) != default:
                raise RequestError(f"{name} needs num_beams of 2 or more", param=name, code="invalid_value")
        return self

    @property
    def beams(self) -> Beams | None:
        """Beam search options for the engine; None = no beam search."""
        return (
            None if self.num_beams == 1 else Beams(self.num_beams, self.length_penalty, self.early_stopping)
        )

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def caller(self) -> str | None:
        """Selects the adapter of an alias with a canary: the user, or else the seed; None if neither was sent."""
        return self.user or self.safety_identifier or (None if self.seed is None else f"seed {self.seed}")

    @property
    def tokens(self) -> TokenOptions:
        """Where an answer may end, and which tokens it may hold."""
        return TokenOptions(
            min_tokens=self.min_tokens,
            ignore_eos=self.ignore_eos,
            stop_token_ids=self.stop_token_ids,
            bad_words=self.bad_words,
            allowed_token_ids=self.allowed_token_ids,
        )

    def cut(self, prompt: Sequence[int], room: int) -> tuple[int, ...]:
        """The part of a prompt that `truncate_prompt_tokens` keeps. room: tokens that leave room for the answer."""
        most = self.truncate_prompt_tokens
        keep = len(prompt) if most is None else max(room, 1) if most == -1 else most
        return tuple(prompt[:keep] if self.truncation_side == "right" else prompt[-keep:])

    def sampling(self, choice: int = 0) -> Sampling:
        """Sampling options for the engine. As in vLLM, each choice has its own seed: seed + choice.

        With beam search the temperature defaults to 0; the engine refuses any other.
        """
        greedy = self.num_beams > 1 and "temperature" not in self.model_fields_set
        return Sampling(
            temperature=0.0 if greedy else self.temperature,
            top_p=self.top_p,
            top_k=max(self.top_k, 0),
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            frequency_penalty=self.frequency_penalty,
            presence_penalty=self.presence_penalty,
            seed=None if self.seed is None else self.seed + choice,
            logit_bias=self.logit_bias,
        )


class ChatRequest(Generate, Rendered):
    """POST /v1/chat/completions"""

    not_built: ClassVar[Harmless] = {
        **NOT_BUILT,
        **THINKING,
        "add_special_tokens": (False,),
        "echo": (False,),
    }

    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_tokens: sampled.MaxTokens | None = None
    max_completion_tokens: sampled.MaxTokens | None = None
    logprobs: bool = False
    top_logprobs: int = Field(default=0, ge=0, le=MAX_LOGPROBS)
    tools: Tools = Field(default=[])
    tool_choice: ToolChoice = "auto"
    reasoning_effort: Annotated[Text, Field(max_length=64)] | None = None
    include_reasoning: bool = True
    thinking_token_budget: int | None = Field(default=None, ge=-1)  # -1: any number, whatever the default is
    parallel_tool_calls: bool = True

    @model_validator(mode="after")
    def _top_needs_logprobs(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise RequestError(
                "top_logprobs needs logprobs: true", param="top_logprobs", code="invalid_value"
            )
        return self

    @model_validator(mode="after")
    def _choice_is_among_the_tools(self) -> ChatRequest:
        names = [tool["function"]["name"] for tool in self.tools]
        if len(set(names)) < len(names):
            raise RequestError("tools: two tools have the same name", param="tools", code="invalid_value")
        if self.tool_choice == "required" and not names:
            raise RequestError("tool_choice needs tools", param="tool_choice", code="invalid_value")
        if self.tool_choice.startswith("=") and self.tool_choice[1:] not in names:
            message = f"tool_choice: no tool has the name {self.tool_choice[1:41]!r}"
            raise RequestError(message, param="tool_choice", code="invalid_value")
        return self

    @property
    def rendering(self) -> Rendering:
        """As `Rendered`; the effort is a variable of the template, as in vLLM."""
        rendering = super().rendering
        if self.reasoning_effort is None:
            return rendering
        effort = {"reasoning_effort": self.reasoning_effort}
        return {**rendering, "variables": {**rendering["variables"], **effort}}

    @property
    def continued_text(self) -> str | None:
        """What is there of the answer that goes on; None if a new one begins."""
        content = self.messages[-1].content if self.continue_final_message else None
        if isinstance(content, list):
            return "".join(part["text"] for part in content)
        return None if content is None else str(content)

    @property
    def limit(self) -> int | None:
        """Most tokens of the answer; None = as many as fit into the context."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class CompletionRequest(Generate):
    """POST /v1/completions"""

    prompt: Prompts
    max_tokens: int = Field(default=16, ge=0)
    echo: bool = False
    add_special_tokens: bool = True  # such as BOS, around a prompt that is text
    logprobs: int | None = Field(default=None, ge=0, le=MAX_LOGPROBS)

    @model_validator(mode="after")
    def _not_too_many(self) -> CompletionRequest:
        if self.n * len(self.prompt) > MAX_SEQUENCES:
            message = f"{len(self.prompt)} prompts with n {self.n} are over {MAX_SEQUENCES} answers"
            raise RequestError(message, param="n", code="invalid_value")
        return self


class TokenizeRequest(Rendered):
    """POST /tokenize: a text or a conversation."""

    model: str | None = Field(default=None, max_length=256)
    prompt: Text | None = None
    add_special_tokens: bool = True  # around a text; a conversation's come from the template
    messages: list[Message] = Field(default=[], max_length=MAX_MESSAGES)
    tools: Tools = Field(default=[])
    return_token_strs: bool = False

    @model_validator(mode="after")
    def _one_of_two(self) -> TokenizeRequest:
        if (self.prompt is None) != bool(self.messages):
            raise RequestError("send either prompt or messages", param="prompt", code="invalid_value")
        return self


class DetokenizeRequest(Request):
    """POST /detokenize"""

    model: str | None = Field(default=None, max_length=256)
    tokens: list[Annotated[int, Field(ge=0)]] = Field(max_length=1 << 20)
