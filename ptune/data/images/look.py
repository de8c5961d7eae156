"""Properties of an image for the doctor: mode, size, hash of its pixels, and whether it shows anything."""

from __future__ import annotations

import hashlib
import io
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

_SAMPLED = 256  # fewest rows and columns to measure an image's spread of colours on
_ALPHA = ("RGBA", "LA", "PA")
_KEYED = ("1", "L", "P", "RGB")  # one of their colours can mean transparent


@dataclass(frozen=True, slots=True)
class Look:
    """The properties of a decoded image."""

    mode: str  # Pillow's name for the file's: L, RGB, P (palette), CMYK, RGBA, I;16, …
    width: int  # after rotation
    height: int
    pixels: bytes  # SHA-256 of size and RGB values; equal for lossless copies in other formats
    spread: float  # largest standard deviation of a channel, in steps of 255
    see_through: bool = False  # some pixels are transparent

    @property
    def shorter(self) -> int:
        """The shorter edge in pixels."""
        return min(self.width, self.height)


def look_at(image: Image.Image, mode: str | None = None, *, see_through: bool = False) -> Look:
    """Measures an RGB image. mode: before its conversion."""
    pixels = np.asarray(image)  # [height, width, 3]
    digest = hashlib.sha256(f"{image.width} {image.height}\n".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    step = max(1, min(image.size) // _SAMPLED)
    spread = float(pixels[::step, ::step].std((0, 1)).max())
    return Look(mode or image.mode, image.width, image.height, digest.digest(), spread, see_through)


def look_at_file(raw: bytes, image: Image.Image) -> Look:
    """Measures `image`, which `open_image` made of a file's bytes."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `open_image` has already decoded it without an error
        file = Image.open(io.BytesIO(raw))
        transparent = file.mode in _ALPHA or (file.mode in _KEYED and "transparency" in file.info)
        see_through = transparent and min(file.convert("RGBA").getchannel("A").tobytes()) < 255
        return look_at(image, file.mode, see_through=see_through)
