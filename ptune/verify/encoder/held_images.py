"""The held-out images on which a bundle's profiles are compared; stored in it, so that it can be verified anywhere.

golden/held.npz     `pixels`, uint8 [n, height, width, 3]: images as the model sees them, before normalisation
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from ptune.codecs.image import Pixels, Preprocessing
from ptune.errors import FormatError
from ptune.formats.whole_write import whole_file
from ptune.tasks.encoder.infer import Encoded
from ptune.verify.encoder.held_texts import FILE, MOST

MOST_BYTES = 128 * 2**20


@dataclass(frozen=True)
class HeldImages(Sequence[Encoded]):
    """Images that are normalised on access: as floats they take four times the memory."""

    pixels: Sequence[Pixels]
    preprocessing: Preprocessing

    def __len__(self) -> int:
        return len(self.pixels)

    @overload
    def __getitem__(self, index: int) -> Encoded: ...
    @overload
    def __getitem__(self, index: slice) -> list[Encoded]: ...
    def __getitem__(self, index: int | slice) -> Encoded | list[Encoded]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        return Encoded({"pixel_values": self.preprocessing.normalised(self.pixels[index])})


def most(size: tuple[int, int]) -> int:
    """Number of images of this height and width to keep."""
    height, width = size
    return max(1, min(MOST, MOST_BYTES // (height * width * 3)))


def save(images: Sequence[Pixels], bundle: Path) -> None:
    """Writes images into a bundle."""
    with whole_file(bundle / FILE) as part, part.open("wb") as file:
        np.savez_compressed(file, pixels=np.stack(images))


def load(bundle: Path, preprocessing: Preprocessing) -> HeldImages:
    """Reads a bundle's images. Raises: FormatError."""
    path = bundle / FILE
    try:
        with np.load(path, allow_pickle=False) as file:
            pixels: NDArray[np.uint8] = file["pixels"]
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (*preprocessing.size, 3):
            raise ValueError(f"its images are {pixels.dtype} {list(pixels.shape)}")
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise FormatError(f"{path} is missing or damaged: {error}") from None
    return HeldImages(pixels, preprocessing)  # type: ignore[arg-type]  # an array is a sequence of its rows
