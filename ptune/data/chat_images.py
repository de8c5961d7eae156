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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptune.codecs.image import Pixels
from ptune.codecs.image_parts import image_of_part
from ptune.codecs.vision import FIRST_ROW, Vision, has_images, is_image, with_rows
from ptune.data.conversations import Conversation, Convertible
from ptune.errors import DataError

FILE = "images"  # uint8 [images, height, width, 3]
MOST_ROWS = FIRST_ROW  # of features in a data set: a token has 31 bits


class Pictures:
    """Writes the images of one data set into its folder."""

    def __init__(self, folder: Path, vision: Vision) -> None:
        self._vision = vision
        self._file = (folder / FILE).open("wb")
        self._places: dict[bytes, int] = {}  # by the hash of the pixels
        self._digest = hashlib.sha256()

    def __enter__(self) -> Pictures:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def of(self, conversation: Convertible, folder: Path) -> Convertible:
        """The conversation with its images in place; of another kind as it is. folder: what its files are relative to.

        Raises: DataError that names the part of an image that cannot be used.
        """
        if not isinstance(conversation, Conversation) or not has_images(conversation.messages):
            return conversation
        named = iter(_named(conversation))

        def place(part: Mapping[str, Any]) -> int:
            path = next(named)
            try:
                return self._add(self._vision.preprocessing.pixels(image_of_part(part, folder)))
            except DataError as error:
                raise DataError(f"{path}: {error}") from None

        return replace(conversation, messages=tuple(map(dict, with_rows(conversation.messages, place))))

    def _add(self, pixels: Pixels) -> int:
        """The first row of an image. Raises: DataError if there are too many."""
        key = hashlib.sha256(pixels.tobytes()).digest()
        if key not in self._places:
            if (len(self._places) + 1) * self._vision.rows > MOST_ROWS:
                raise DataError(
                    f"more than {len(self._places):,} images do not fit into one data set: split it"
                )
            self._places[key] = len(self._places)
            self._file.write(pixels.tobytes())
            self._digest.update(key)
        return FIRST_ROW + self._places[key] * self._vision.rows

    def described(self) -> dict[str, Any]:
        """The images for data.json; `sha256` is over their pixels."""
        return {"count": len(self._places), "rows": self._vision.rows, "sha256": self._digest.hexdigest()}


def images_in(folder: Path, vision: Vision) -> NDArray[np.uint8]:
    """The images in a folder, [images, height, width, 3]."""
    height, width = vision.preprocessing.size
    size = (folder / FILE).stat().st_size // (height * width * 3)
    shape = (size, height, width, 3)
    return np.memmap(folder / FILE, np.uint8, "r", shape=shape) if size else np.zeros(shape, np.uint8)


def _named(conversation: Conversation) -> list[str]:
    """Where each image of a conversation stands."""
    return [
        f"messages[{index}].content[{at}]"
        for index, message in enumerate(conversation.messages)
        if isinstance(message.get("content"), list | tuple)
        for at, part in enumerate(message["content"])
        if is_image(part)
    ]
