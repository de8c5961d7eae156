"""What an image looks like to the doctor: its mode, its size, what its pixels are, and whether there is anything in it."""

from __future__ import annotations

import hashlib
import io
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

_SAMPLED = 256  # rows and columns, at least, that say how much an image's colours differ
_ALPHA = ("RGBA", "LA", "PA")
_KEYED = ("1", "L", "P", "RGB")  # one of their colours can stand for nothing


@dataclass(frozen=True, slots=True)
class Look:
    """An image, decoded."""

    mode: str  # as Pillow calls that of the file: L, RGB, P (palette), CMYK, RGBA, I;16, …
    width: int  # the right way up
    height: int
    pixels: bytes  # SHA-256 of size and RGB values: the same for copies in other formats without loss
    spread: float  # standard deviation of the channel that differs most, in steps of 255
    see_through: bool = False  # some pixels are transparent

    @property
    def shorter(self) -> int:
        """Its shorter edge, in pixels."""
        return min(self.width, self.height)


def look_at(image: Image.Image, mode: str | None = None, *, see_through: bool = False) -> Look:
    """Looks at an RGB image, which had another `mode` before it was converted."""
    pixels = np.asarray(image)  # [height, width, 3]
    digest = hashlib.sha256(f"{image.width} {image.height}\n".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    step = max(1, min(image.size) // _SAMPLED)
    spread = float(pixels[::step, ::step].std((0, 1)).max())
    return Look(mode or image.mode, image.width, image.height, digest.digest(), spread, see_through)


def look_at_file(raw: bytes, image: Image.Image) -> Look:
    """Looks at `image`, which `open_image` made of a file's bytes."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as `open_image`, which has decoded it without an error
        file = Image.open(io.BytesIO(raw))
        transparent = file.mode in _ALPHA or (file.mode in _KEYED and "transparency" in file.info)
        see_through = transparent and min(file.convert("RGBA").getchannel("A").tobytes()) < 255
        return look_at(image, file.mode, see_through=see_through)
