"""The part of a message that is an image, in OpenAI's shape: a data URI, as nothing is fetched from other servers."""

from __future__ import annotations

import base64
import re
from typing import Any

from pydantic_core import PydanticCustomError

from ..http.errors import UNKNOWN, UNSUPPORTED

IMAGE_TYPES = ("image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp")
MAX_URI = 12 * 2**20  # characters
_DATA_URI = re.compile(r"data:([a-z]+/[a-z0-9.+-]+);base64,", re.IGNORECASE)
SCHEMA = {
    "type": "object",
    "properties": {
        "type": {"const": "image_url"},
        "image_url": {
            "type": "object",
            "properties": {"url": {"type": "string"}, "detail": {"enum": ["auto"]}},
            "required": ["url"],
        },
    },
    "required": ["type", "image_url"],
}


def check_image_part(part: dict[str, Any]) -> None:
    """Raises: PydanticCustomError, ValueError for a part that names no image as this server takes it."""
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, dict) else None
    if not isinstance(url, str):
        raise ValueError(
            'an image part must be {"type": "image_url", "image_url": {"url": "data:image/png;base64,…"}}'
        )
    assert isinstance(image, dict)
    unknown = [*(part.keys() - {"type", "image_url", "cache_control"}), *(image.keys() - {"url", "detail"})]
    if unknown:
        raise PydanticCustomError(
            UNKNOWN, "an image part has no key {key}; leave it out", {"key": repr(sorted(unknown)[0])[:40]}
        )
    if image.get("detail") not in (None, "auto"):
        raise PydanticCustomError(UNSUPPORTED, "detail must be auto: every image is seen in the same detail")
    found = _DATA_URI.match(url[:100])
    if found is None:
        raise PydanticCustomError(
            UNSUPPORTED,
            "an image must be a data URI, as data:image/png;base64,…: this server fetches nothing from other servers",
        )
    if found[1].lower() not in IMAGE_TYPES:
        raise ValueError(f"images of type {found[1][:40]} are not supported; send {', '.join(IMAGE_TYPES)}")
    if len(url) > MAX_URI:
        raise ValueError(f"the image has {len(url):,} characters as a data URI, over {MAX_URI:,}")


_BEGINNINGS = (
    (b"\x89PNG", "image/png"),
    (b"\xff\xd8", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
)


def data_uri(media_type: str, data: str) -> str:
    """An image in base64 as a data URI."""
    return f"data:{media_type};base64,{data}"


def media_type_of(data: str) -> str:
    """The type of an image in base64, by its first bytes; the rest is read later. Raises: ValueError."""
    try:
        head = base64.b64decode(data[:16], validate=True)
    except ValueError:
        raise ValueError("an image must be its file in base64, without data: before it") from None
    for beginning, media_type in _BEGINNINGS:
        if head.startswith(beginning):
            return media_type
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "image/webp"
    raise ValueError(f"an image must be in a format of {', '.join(IMAGE_TYPES)}")


def image_part(uri: str) -> dict[str, Any]:
    """An image as a part of a chat's message."""
    return {"type": "image_url", "image_url": {"url": uri}}


def checked_uri(uri: str) -> str:
    """Returns the data URI. Raises: PydanticCustomError, ValueError as `check_image_part`."""
    check_image_part(image_part(uri))
    return uri
