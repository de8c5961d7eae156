"""The images that parts of messages name: files, data URIs and bytes. Nothing is fetched from the network."""

from __future__ import annotations

import base64
import os.path
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptune.codecs.image import MAX_PIXELS, open_image
from ptune.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

_DATA_URI = re.compile(r"data:[a-z]+/[a-z0-9.+-]+;base64,", re.IGNORECASE)
_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
WHITE = (255, 255, 255)
_SHAPES = '{"type": "image", "path": "cat.png"} or {"type": "image_url", "image_url": {"url": "data:image/png;base64,…"}}'


def image_of_part(
    part: Mapping[str, Any], folder: Path | None = None, *, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """The image of a message's part, as RGB; transparent pixels are white, as for the processors of models that see.

    folder: what the paths of files are relative to. Raises: DataError in one sentence.
    """
    return open_image(_source(part, folder or Path()), max_pixels=max_pixels, backdrop=WHITE)


def _source(part: Mapping[str, Any], folder: Path) -> bytes | Path:
    if part.get("type") == "image_url":
        named = part.get("image_url")
        named = named.get("url") if isinstance(named, Mapping) else named
    else:
        named = next((part[key] for key in ("path", "image", "url", "bytes") if part.get(key)), None)
    if isinstance(named, Mapping):  # as Arrow and the hub hold images
        named = named.get("bytes") or named.get("path")
    if isinstance(named, bytes):
        return named
    if not isinstance(named, str) or not named:
        raise DataError(f"an image must be named, as {_SHAPES}")
    if found := _DATA_URI.match(named):
        try:
            return base64.b64decode(named[found.end() :], validate=True)
        except ValueError as error:
            raise DataError(f"the data after 'base64,' is not valid base64: {error}") from None
    named = named.removeprefix("file://")
    if _ELSEWHERE.match(named) or named.startswith("data:"):
        raise DataError(
            f"the image {named[:60]!r} is neither a file nor a data URI with base64, and nothing is fetched from other"
            " machines: save it as a file and name that"
        )
    return folder / os.path.expanduser(named)
