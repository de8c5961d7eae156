"""Images in conversations: from the parts of a body to rows of features in a prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ptune.codecs.image_parts import image_of_part
from ptune.codecs.vision import has_images
from ptune.errors import RequestError
from ptune.tasks.chat.seen import Prompt, encoded

if TYPE_CHECKING:
    from PIL import Image

    from ptune.codecs.chat import ChatCodec

    from ..service import ChatService

MAX_PIXELS = 25_000_000  # of an image


def seen_prompt(
    codec: ChatCodec, service: ChatService, messages: Sequence[Mapping[str, Any]], **arguments: Any
) -> Prompt:
    """The prompt of a conversation. arguments: of the codec's `encode_prompt`.

    Raises: RequestError for an image that cannot be used; TemplateError, also where the model sees none.
    """
    if service.settings.receipts is not None and has_images(messages):
        message = "messages: this server keeps receipts of its answers, which hold no images: ask without, or another server"
        raise RequestError(message, param="messages", code="invalid_value")
    return encoded(codec, service.model.engine.tower, messages, _opened, **arguments)


def plain_tokens(codec: ChatCodec, prompt: Sequence[int]) -> list[int]:
    """A prompt's tokens as the model's tokenizer knows them: each row of an image is the same token."""
    return [*prompt] if codec.vision is None else codec.vision.plain(prompt)


def _opened(part: Mapping[str, Any]) -> Image.Image:
    return image_of_part(part, max_pixels=MAX_PIXELS)
