"""Request bodies of /v1/classify (in vLLM's format) and /v1/tag. Strict, as in `schemas`."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from ptune.errors import RequestError

from ..fields.known_fields import ANYWHERE, Harmless, Request
from ..fields.message import no_nul
from ..http.errors import UNSUPPORTED

MAX_INPUTS = 128
MAX_IMAGES = 32
MAX_IMAGE_BYTES = 8 * 2**20
MAX_IMAGE_PIXELS = 25_000_000

IMAGE_TYPES = ("image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp")
_DATA_URI = re.compile(r"data:([a-z]+/[a-z+.-]+);base64,", re.IGNORECASE)

NOT_BUILT: Harmless = {
    **ANYWHERE,
    "activation": (True,),
    "add_special_tokens": (True,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "embed_dtype": ("float32",),
    "endianness": ("native", "little"),
    "max_chunks_per_doc": (1,),
    "max_tokens_per_doc": (),
    "messages": ([],),
    "normalize": (True,),
    "rank_fields": ([], ["text"]),
    "softmax": (True,),
    "truncate_prompt_tokens": (),
    "truncation_side": ("right",),
}
"""Fields of vLLM and Cohere that are refused, each with the values that have no effect and are accepted."""


@dataclass(frozen=True)
class ImageBytes:
    """An image file, still encoded."""

    content: bytes


Input: TypeAlias = str | tuple[str, str] | ImageBytes


def image_of(content: bytes) -> ImageBytes:
    """Wraps an image file. Raises: ValueError if it is too large."""
    if len(content) > MAX_IMAGE_BYTES:
        raise ValueError(f"the image has {len(content)} bytes, over {MAX_IMAGE_BYTES}")
    return ImageBytes(content)


def listed(value: Any) -> Any:
    """Wraps a single input in a list."""
    return [value] if isinstance(value, str | dict) else value


def _one(value: Any) -> Input:
    """Checks one input: a text, a pair of texts, or a part of a chat message."""
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, dict):
        return _part(value)
    if isinstance(value, list) and len(value) == 2 and all(isinstance(text, str) for text in value):
        return _text(value[0]), _text(value[1])
    if type(value) is int or (isinstance(value, list) and value and all(type(item) is int for item in value)):
        raise PydanticCustomError(UNSUPPORTED, "token ids are not supported yet; send text")
    raise ValueError("must be a string, a pair of strings, or a part of type image_url")


def _said(value: Any) -> str | tuple[str, str]:
    """Checks one input of a tagger: a text, or a prompt and an answer."""
    parts = value if isinstance(value, list) and len(value) == 2 else [value]
    if not all(isinstance(part, str) for part in parts):
        raise ValueError("must be a string, or a pair of strings: a prompt and an answer")
    first, *second = map(no_nul, parts)
    return (first, second[0]) if second else first


def _text(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not hold a NUL character")
    if not text.strip():
        raise ValueError("must not be empty: there is nothing to classify")
    return text


def _part(part: dict[str, Any]) -> Input:
    kind = part.get("type")
    if kind == "text" and isinstance(part.get("text"), str):
        return _text(part["text"])
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, dict) else None
    if kind != "image_url" or not isinstance(url, str):
        raise ValueError('must be {"type": "image_url", "image_url": {"url": "data:image/png;base64,…"}}')
    match = _DATA_URI.match(url)
    if match is None:
        raise PydanticCustomError(
            UNSUPPORTED,
            "must be a data URI, as data:image/png;base64,…: this server fetches nothing from other servers",
        )
    if match[1].lower() not in IMAGE_TYPES:
        raise ValueError(f"images of type {match[1][:40]} are not supported; send {', '.join(IMAGE_TYPES)}")
    try:
        return image_of(base64.b64decode(url[match.end() :], validate=True))
    except binascii.Error as error:
        raise ValueError(f"the data after 'base64,' is not valid base64: {error}") from None


class EncoderRequest(Request):
    """Fields of every request to an encoder."""

    not_built: ClassVar[Harmless] = NOT_BUILT

    model: str = Field(max_length=256)
    user: str | None = Field(default=None, max_length=1024)


class ClassifyRequest(EncoderRequest):
    """POST /v1/classify"""

    input: Annotated[
        list[Annotated[Any, AfterValidator(_one)]],  # of Input
        Field(min_length=1, max_length=MAX_INPUTS),
        BeforeValidator(listed),
    ]
    use_activation: bool = True  # as in vLLM: false returns logits as `probs`

    @model_validator(mode="after")
    def _not_too_many_images(self) -> ClassifyRequest:
        images = sum(isinstance(value, ImageBytes) for value in self.input)
        if images > MAX_IMAGES:
            raise RequestError(
                f"input: {images} images, over {MAX_IMAGES} in one request",
                param="input",
                code="invalid_value",
            )
        return self


class TagRequest(EncoderRequest):
    """POST /v1/tag: texts, or pairs of a prompt and an answer for an adapter that judges steps."""

    input: Annotated[
        list[Annotated[Any, AfterValidator(_said)]],  # of `ptune.tasks.encoder.infer.Tagged`
        Field(min_length=1, max_length=MAX_INPUTS),
        BeforeValidator(listed),
    ]
