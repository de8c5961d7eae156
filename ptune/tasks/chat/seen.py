"""Conversations with images -> the tokens of a prompt, and the rows of features that some of them stand for. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ptune.codecs.image import MAX_PIXELS
from ptune.codecs.image_parts import image_of_part
from ptune.codecs.vision import Placed, has_images, image_count, with_rows
from ptune.engine.decoder.inputs.images import NO_PICTURES, Picture, Tower
from ptune.errors import DataError, RequestError

if TYPE_CHECKING:
    from PIL import Image

    from ptune.codecs.chat import ChatCodec

MAX_IMAGES = 32  # of a conversation

Messages = Sequence[Mapping[str, Any]]
Open = Callable[[Mapping[str, Any]], "Image.Image"]
"""Opens the image that a part of a message names. Raises: DataError."""


class Prompt(list[int]):
    """The tokens of a prompt, and the pictures whose rows are among them."""

    def __init__(self, tokens: Iterable[int], pictures: tuple[Picture, ...] = NO_PICTURES) -> None:
        super().__init__(tokens)
        self.pictures = pictures


def pictures_of(prompt: Sequence[int]) -> tuple[Picture, ...]:
    """The pictures whose rows are among the tokens of a prompt."""
    return prompt.pictures if isinstance(prompt, Prompt) else NO_PICTURES


def open_part(part: Mapping[str, Any]) -> Image.Image:
    """The image of a part that names a file or a data URI, or holds bytes. Raises: DataError."""
    return image_of_part(part, max_pixels=MAX_PIXELS)


def encoded(
    codec: ChatCodec, tower: Tower | None, messages: Messages, open_image: Open = open_part, **arguments: Any
) -> Prompt:
    """A conversation up to where the answer begins. arguments: of the codec's `encode_prompt`.

    tower: of the engine; None if the model sees no images. Raises: RequestError for an image that cannot be used, or where the
    model sees none; TemplateError.
    """
    if not has_images(messages):
        return Prompt(codec.encode_prompt(messages, **arguments))
    if tower is None or codec.vision is None:
        raise _refused("this model sees no images: send text alone")
    if image_count(messages) > MAX_IMAGES:
        raise _refused(f"more than {MAX_IMAGES} images in one conversation: send fewer")
    vision, pictures = codec.vision, dict[int, Picture]()
    count = taken = 0

    def place(part: Mapping[str, Any]) -> Placed:
        nonlocal count, taken
        count += 1
        try:
            image = open_image(part)
            tiles, layout = vision.tiles(image), vision.layout(image.size)
        except DataError as error:
            raise _refused(f"image {count}: {error}") from None
        taken += len(layout.written)
        if codec.context is not None and taken >= codec.context:  # before they cost anything
            raise _refused(
                f"the images alone take {taken:,} tokens or more, and this model reads {codec.context:,}: send fewer, or smaller"
                " ones",
                "context_length_exceeded",
            )
        picture = tower.see(vision.preprocessing.normalised(tiles), layout)
        pictures[picture.first] = picture
        return Placed(picture.first, image.size)

    tokens = codec.encode_prompt(with_rows(messages, place), **arguments)
    return Prompt(tokens, tuple(pictures.values()))


def _refused(reason: str, code: str = "invalid_value") -> RequestError:
    return RequestError(f"messages: {reason}", param="messages", code=code)
