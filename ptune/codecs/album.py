"""The images of a data set or of a bundle's probes, as the model sees them. Torch-free.

An image's rows of features are numbered by its place: the first image's begin at FIRST_ROW, the next one's behind them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ptune.codecs.tiles import Grid, Size
from ptune.codecs.vision import FIRST_ROW, Layout, Placed, Vision

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, eq=False)
class Album:
    """Images in order, cut into tiles."""

    vision: Vision
    sizes: NDArray[np.int64]  # [images, 2], width and height of the images themselves
    tiles: NDArray[np.uint8]  # [tiles of all images, height, width, 3], not normalised

    @classmethod
    def of(cls, vision: Vision, images: Sequence[Image.Image]) -> Album:
        """RGB images. Raises: DataError for one that makes too many tiles."""
        height, width = vision.preprocessing.size
        tiles = [np.zeros((0, height, width, 3), np.uint8), *map(vision.tiles, images)]
        sizes = np.array([image.size for image in images], np.int64).reshape(-1, 2)
        return cls(vision, sizes, np.concatenate(tiles))

    def __len__(self) -> int:
        return len(self.sizes)

    def layout(self, image: int) -> Layout:
        """What becomes of an image."""
        return self.vision.layout(self._size(image))

    @cached_property
    def starts(self) -> list[int]:
        """The first row's token of each image, and the token behind the last row."""
        return [*accumulate((rows for _, rows in self._counts), initial=FIRST_ROW)]

    @cached_property
    def grids(self) -> dict[int, Grid]:
        """The token of the first row of each image whose rows have positions by their place -> its rows down and across."""
        if self.vision.axes == 1:
            return {}
        return {self.starts[at]: self.layout(at).grid for at in range(len(self))}

    def placed(self, image: int) -> Placed:
        """An image as conversations name it."""
        return Placed(self.starts[image], self._size(image))

    def holding(self, token: int) -> int:
        """The image whose row a token is."""
        return bisect_right(self.starts, token) - 1

    def tiles_of(self, image: int) -> NDArray[np.uint8]:
        """The tiles of one image, [tiles, height, width, 3]."""
        return self.tiles[self._first_tiles[image] : self._first_tiles[image + 1]]

    def only(self, images: Sequence[int]) -> Album:
        """An album of some of the images."""
        tiles = [self.tiles[:0], *map(self.tiles_of, images)]
        return Album(self.vision, self.sizes[[*images]].reshape(-1, 2), np.concatenate(tiles))

    def __iter__(self) -> Iterator[tuple[Layout, NDArray[np.uint8]]]:
        """Each image's layout and tiles."""
        return ((self.layout(at), self.tiles_of(at)) for at in range(len(self)))

    @cached_property
    def _first_tiles(self) -> list[int]:
        return [*accumulate((tiles for tiles, _ in self._counts), initial=0)]

    @cached_property
    def _counts(self) -> list[tuple[int, int]]:
        """The tiles and the rows of each image."""
        layouts = map(self.layout, range(len(self)))
        return [(layout.tiles, layout.rows) for layout in layouts]

    def _size(self, image: int) -> Size:
        width, height = self.sizes[image].tolist()
        return width, height
