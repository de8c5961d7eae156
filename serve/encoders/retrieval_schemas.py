"""Request bodies of /v1/embeddings (in OpenAI's format) and /v1/rerank (in that of Jina and Cohere). Strict, as in `schemas`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from ..http.errors import UNSUPPORTED
from .schemas import EncoderRequest, listed

MAX_TEXTS = 2048  # OpenAI's own limit
MAX_DOCUMENTS = 1000


def text_of(value: Any) -> str:
    """Checks a text that is not empty. Raises: ValueError."""
    if type(value) is int or (isinstance(value, list) and all(type(item) is int for item in value)):
        raise PydanticCustomError(UNSUPPORTED, "token ids are not supported yet; send text")
    if not isinstance(value, str):
        raise ValueError("must be a text")
    if "\0" in value:
        raise ValueError("must not hold a NUL character")
    if not value.strip():
        raise ValueError("must not be empty")
    return value


def _document(value: Any) -> str:
    """A text, or Cohere's {"text": …}."""
    if isinstance(value, dict) and set(value) == {"text"}:
        value = value["text"]
    if not isinstance(value, str):
        raise ValueError('must be a text, or {"text": …}')
    return text_of(value)


def _cut(tokens: int) -> int:
    if tokens < 1 and tokens != -1:
        raise ValueError("must be a number of tokens, or -1 for as many as the adapter reads")
    return tokens


Cut: TypeAlias = Annotated[int, AfterValidator(_cut)]
"""vLLM's truncate_prompt_tokens: to how many tokens a text is cut; without it, one that is too long is refused."""


class EmbeddingsRequest(EncoderRequest):
    """POST /v1/embeddings"""

    input: Annotated[
        list[Annotated[Any, AfterValidator(text_of)]],  # of str
        Field(min_length=1, max_length=MAX_TEXTS),
        BeforeValidator(listed),
    ]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = None
    truncate_prompt_tokens: Cut | None = None


class RerankRequest(EncoderRequest):
    """POST /v1/rerank"""

    query: Annotated[str, AfterValidator(text_of)]
    documents: Annotated[
        list[Annotated[Any, AfterValidator(_document)]],  # of str
        Field(min_length=1, max_length=MAX_DOCUMENTS),
    ]
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool = True
    truncate_prompt_tokens: Cut | None = None

    @property
    def texts(self) -> list[str]:
        return list(self.documents)
