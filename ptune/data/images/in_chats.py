"""The images of conversations, prepared as the model sees them and kept on disk: each once, in order of appearance.

An image's rows of features are numbered by its place (`ptune.codecs.vision`), so that examples are lists of numbers whether
they hold images or not. What is kept are pixels: features belong to a model, and are computed when it is loaded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from ptune.codecs.album import Album
from ptune.codecs.image_parts import image_of_part
from ptune.codecs.vision import FIRST_ROW, Placed, Vision, has_images, is_image, with_rows
from ptune.data.shapes.conversations import Conversation, Convertible
from ptune.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

TILES = "images"  # uint8 [tiles of all images, height, width, 3]
SIZES = "image_sizes"  # int64 [images, 2], width and height of the images themselves
MOST_ROWS = FIRST_ROW  # of features in a data set: a token has 31 bits


class Pictures:
    """Writes the images of one data set into its folder."""

    def __init__(self, folder: Path, vision: Vision) -> None:
        self._vision = vision
        self._tiles, self._sizes = (folder / TILES).open("wb"), (folder / SIZES).open("wb")
        self._placed: dict[bytes, Placed] = {}  # by the hash of the pixels
        self._rows = self._cut = 0  # of the images so far
        self._digest = hashlib.sha256()

    def __enter__(self) -> Pictures:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tiles.close()
        self._sizes.close()

    def of(self, conversation: Convertible, folder: Path) -> Convertible:
        """The conversation with its images in place; of another kind as it is. folder: what its files are relative to.

        Raises: DataError that names the part of an image that cannot be used.
        """
        if not isinstance(conversation, Conversation) or not has_images(conversation.messages):
            return conversation
        named = iter(_named(conversation))

        def place(part: Mapping[str, Any]) -> Placed:
            path = next(named)
            try:
                return self._add(image_of_part(part, folder))
            except DataError as error:
                raise DataError(f"{path}: {error}") from None

        return replace(conversation, messages=tuple(map(dict, with_rows(conversation.messages, place))))

    def _add(self, image: Image.Image) -> Placed:
        """An image of a conversation. Raises: DataError if it has too many tiles, or there are too many images."""
        layout, tiles = self._vision.layout(image.size), self._vision.tiles(image)
        key = hashlib.sha256(repr(image.size).encode() + tiles.tobytes()).digest()
        if key not in self._placed:
            if self._rows + layout.rows > MOST_ROWS:
                raise DataError(
                    f"more than {len(self._placed):,} images do not fit into one data set: split it"
                )
            self._placed[key] = Placed(FIRST_ROW + self._rows, image.size)
            self._tiles.write(tiles.tobytes())
            self._sizes.write(np.array(image.size, np.int64).tobytes())
            self._digest.update(key)
            self._rows, self._cut = self._rows + layout.rows, self._cut + layout.tiles
        return self._placed[key]

    def described(self) -> dict[str, Any]:
        """The images for data.json; `sha256` is over their sizes and pixels."""
        counts = {"count": len(self._placed), "tiles": self._cut, "rows": self._rows}
        return {**counts, "sha256": self._digest.hexdigest()}


def images_in(folder: Path, vision: Vision) -> Album:
    """The images in a folder."""
    sizes = np.fromfile(folder / SIZES, np.int64).reshape(-1, 2)
    height, width = vision.preprocessing.size
    shape = ((folder / TILES).stat().st_size // (height * width * 3), height, width, 3)
    tiles = np.memmap(folder / TILES, np.uint8, "r", shape=shape) if len(sizes) else np.zeros(shape, np.uint8)
    return Album(vision, sizes, tiles)


def _named(conversation: Conversation) -> list[str]:
    """Where each image of a conversation stands."""
    return [
        f"messages[{index}].content[{at}]"
        for index, message in enumerate(conversation.messages)
        if isinstance(message.get("content"), list | tuple)
        for at, part in enumerate(message["content"])
        if is_image(part)
    ]
