"""Images that a visitor chooses for a question: files as data URIs, made smaller where they would fill the browser's store."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

from ptune.codecs.image import open_image
from ptune.codecs.image_parts import WHITE
from ptune.errors import DataError

from .answer import ServerError

TYPES = {"PNG": "png", "JPEG": "jpeg", "WEBP": "webp", "GIF": "gif", "BMP": "bmp"}
LARGEST_BYTES = 400_000
LONGEST_SIDE = 1536  # pixels, of what is larger than that
MAX_PIXELS = 25_000_000


def data_uri(file: Path) -> str:
    """The image as it is, or if its file is large, as a JPEG of at most 1536 pixels a side. Raises: ServerError."""
    content = file.read_bytes()
    try:
        with Image.open(io.BytesIO(content), formats=tuple(TYPES)) as image:
            if image.width * image.height > MAX_PIXELS:
                pixels = f"{image.width} × {image.height}"
                raise ServerError(f"{file.name} has {pixels} pixels; choose an image of at most 25 million.")
            kind = TYPES[str(image.format)]
            image.load()
            if len(content) > LARGEST_BYTES:
                kind, content = "jpeg", _smaller(image)
    except (OSError, ValueError, SyntaxError, DataError):
        known = ", ".join(TYPES)
        raise ServerError(f"{file.name} is not an image that can be read; choose one of {known}.") from None
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _smaller(image: Image.Image) -> bytes:
    seen = open_image(image, backdrop=WHITE)  # as the server opens it
    seen.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    written = io.BytesIO()
    seen.save(written, "JPEG", quality=85)
    return written.getvalue()
