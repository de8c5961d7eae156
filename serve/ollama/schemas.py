"""Request bodies of Ollama's API. Strict, as in `schemas`: no field is dropped in silence."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from ptune.tasks.chat.seen import MAX_IMAGES

from ..encoders.retrieval_schemas import MAX_TEXTS, text_of
from ..encoders.schemas import listed
from ..fields import sampling as sampled
from ..fields.image_part import checked_uri, data_uri, media_type_of
from ..fields.known_fields import Harmless, Request
from ..fields.message import MAX_CALLS, Body, Text, Tools
from ..openai.schemas import MAX_LOGPROBS, MAX_MESSAGES, Stops

LATEST = ":latest"
"""The tag of every model: Ollama's clients may add it to a name."""


def _predicted(tokens: int) -> int:
    if tokens < 1 and tokens not in (-1, -2):
        raise ValueError("must be a number of tokens, or -1 for as many as there is room for")
    return tokens


def _form(form: Any) -> Any:
    if form in ("", "json") or isinstance(form, dict):
        return form
    raise ValueError('must be "json" or a JSON schema')


class Part(Body):
    """An object of a request. An unknown key is an error."""

    model_config = ConfigDict(extra="forbid")


class Options(Request):
    """`options`. Those that say how Ollama loads a model are accepted: here it is loaded already."""

    not_built: ClassVar[Harmless] = {
        "embedding_only": (False,),
        "logits_all": (False,),
        "mirostat": (0,),
        "penalize_newline": (True,),
        "repeat_last_n": (-1,),
        "tfs_z": (1, 1.0),
        "typical_p": (1, 1.0),
        "vocab_only": (False,),
    }

    temperature: sampled.Temperature | None = None
    top_k: sampled.TopK | None = None
    top_p: sampled.TopP | None = None
    min_p: sampled.MinP | None = None
    seed: sampled.Seed | None = None
    repeat_penalty: sampled.RepetitionPenalty | None = None
    frequency_penalty: sampled.Penalty | None = None
    presence_penalty: sampled.Penalty | None = None
    num_predict: Annotated[int, AfterValidator(_predicted)] | None = None
    stop: Stops = Field(default=[])
    f16_kv: Any = None
    low_vram: Any = None
    main_gpu: Any = None
    mirostat_eta: Any = None
    mirostat_tau: Any = None
    num_batch: Any = None
    num_ctx: Any = None  # the context is the bundle's: no prompt is cut to it
    num_gpu: Any = None
    num_keep: Any = None
    num_thread: Any = None
    numa: Any = None
    use_mlock: Any = None
    use_mmap: Any = None


def _image(data: Any) -> str:
    """An image in base64 as a data URI."""
    if not isinstance(data, str):
        raise ValueError("an image must be its file in base64")
    return checked_uri(data_uri(media_type_of(data), data))


Images = Annotated[
    list[Annotated[str, BeforeValidator(_image), WithJsonSchema({"type": "string"})]],
    Field(max_length=MAX_IMAGES),
]
"""Files in base64, which are read as data URIs."""


class OllamaFunction(Part):
    name: Annotated[Text, Field(min_length=1, max_length=256)]
    arguments: dict[str, Any] = Field(default={})
    index: int | None = None


class OllamaCall(Part):
    """A tool call in an earlier answer."""

    function: OllamaFunction
    id: Annotated[Text, Field(min_length=1, max_length=256)] | None = None
    type: Literal["function"] = "function"


class OllamaMessage(Part):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: Text = ""
    thinking: Text | None = None
    tool_calls: list[OllamaCall] = Field(default=[], max_length=MAX_CALLS)
    tool_name: Text | None = None
    tool_call_id: Text | None = None
    images: Images = Field(default=[])

    @model_validator(mode="after")
    def _images_are_the_users(self) -> OllamaMessage:
        if self.images and self.role != "user":
            raise ValueError(f"a message of role {self.role} holds no images: only those of role user do")
        return self


class OllamaModel(Request):
    """A body that names a model, and how long it is to stay loaded, which it does anyway."""

    model: Annotated[str, Field(max_length=256)]
    keep_alive: Any = None

    @property
    def adapter(self) -> str:
        """The model without its tag."""
        return self.model.removesuffix(LATEST)


class OllamaAnswer(OllamaModel):
    """Fields of chats and generations."""

    not_built: ClassVar[Harmless] = {
        "shift": (False,),
        "truncate": (False,),
    }

    stream: bool = True
    options: Options = Options()
    format: Annotated[
        Any,  # "", "json" or a schema
        BeforeValidator(_form),
        WithJsonSchema({"anyOf": [{"enum": ["", "json"]}, {"type": "object"}]}),
    ] = ""
    think: bool | Literal["low", "medium", "high"] | None = None
    logprobs: bool = False
    top_logprobs: int = Field(default=0, ge=0, le=MAX_LOGPROBS)


class OllamaChatRequest(OllamaAnswer):
    """POST /api/chat"""

    not_built: ClassVar[Harmless] = {**OllamaAnswer.not_built, "images": ([],)}

    messages: list[OllamaMessage] = Field(default=[], max_length=MAX_MESSAGES)
    tools: Tools = Field(default=[])


class OllamaGenerateRequest(OllamaAnswer):
    """POST /api/generate"""

    not_built: ClassVar[Harmless] = {
        **OllamaAnswer.not_built,
        "context": ([],),
        "height": (),
        "raw": (False,),
        "steps": (),
        "suffix": ("",),
        "template": ("",),
        "width": (),
    }

    prompt: Text = ""
    system: Text = ""
    images: Images = Field(default=[])


class OllamaShowRequest(OllamaModel):
    """POST /api/show"""

    verbose: bool = False


class OllamaEmbedRequest(OllamaModel):
    """POST /api/embed"""

    input: Annotated[
        list[Annotated[Any, AfterValidator(text_of)]],  # of str
        Field(min_length=1, max_length=MAX_TEXTS),
        BeforeValidator(listed),
    ]
    truncate: bool = True
    dimensions: Annotated[int, Field(ge=1)] | None = None
    options: Options = Options()
