"""How an image is cut into the tiles that a model looks at, by the image's width and height. Torch-free: trains and serves.

Each rule gives the pixels that transformers' image processor of the models named below gives, but for rounding of a resize.
A tile is as large as the model's input (`Preprocessing.size`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from ptune.codecs.image import Pixels, Preprocessing, rescaled

if TYPE_CHECKING:
    from PIL import Image

Grid = tuple[int, int]  # tiles down and across; (1, 1) is an image that is not cut
Size = tuple[int, int]  # width and height of an image
ONE: Grid = (1, 1)


class _Rule(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")
    limit: ClassVar[int] = 64  # tiles of an image, with the whole one
    stretched: ClassVar[bool] = False  # whether a grid does not say how many rows an image has

    def count(self, grid: Grid) -> int:
        """Tiles of an image that is cut like this, with the whole one."""
        return 1 if grid == ONE else grid[0] * grid[1] + 1


class Whole(_Rule):
    """No cutting: the preprocessing makes one tile of each image, as LLaVA 1.5 does."""

    kind: Literal["whole"] = "whole"

    def grid(self, size: Size, edge: int) -> Grid:
        """How an image is cut. edge: of a tile."""
        return ONE

    def tiles(self, image: Image.Image, seen: Preprocessing) -> Iterator[Pixels]:
        """The tiles of an RGB image, [edge, edge, 3] each, in the order in which a prompt shows them."""
        yield seen.pixels(image)


class Split(_Rule):
    """Idefics 3's and SmolVLM's: scaled to `longest`, then up to whole tiles, and the whole image behind them."""

    kind: Literal["split"] = "split"
    longest: int  # pixels of the longer edge
    cut: bool = True  # whether there are tiles beside the whole image
    most: int = 4096  # pixels of the longer edge, at last

    def grid(self, size: Size, edge: int) -> Grid:
        """How an image is cut. edge: of a tile."""
        width, height = self._covered(size, edge)
        return (height // edge, width // edge) if self.cut else ONE

    def tiles(self, image: Image.Image, seen: Preprocessing) -> Iterator[Pixels]:
        """As `Whole.tiles`, the whole image last."""
        edge, filter_name = seen.size[0], seen.interpolation
        image = rescaled(image, self._first(image.size), filter_name)
        if self.cut:
            image = rescaled(image, self._covered_by(image.size, edge), filter_name)
            if image.size != (edge, edge):
                yield from _cut(image, edge)
        yield np.asarray(rescaled(image, (edge, edge), filter_name))

    def _covered(self, size: Size, edge: int) -> Size:
        return self._covered_by(self._first(size), edge)

    def _first(self, size: Size) -> Size:
        """Width and height with the longer edge of `longest`, the other one even, both at most `most`."""
        width, height = size
        ratio = width / height
        if width >= height:
            width, height = self.longest, int(self.longest / ratio)
            height += height % 2
        else:
            width, height = int(self.longest * ratio), self.longest
            width += width % 2
        width, height = max(width, 1), max(height, 1)
        ratio = width / height
        if width >= height and width > self.most:
            width, height = self.most, int(self.most / ratio)
        elif height > width and height > self.most:
            width, height = int(self.most * ratio), self.most
        return max(width, 1), max(height, 1)

    def _covered_by(self, size: Size, edge: int) -> Size:
        width, height = size
        ratio = width / height
        if width >= height:
            width = _up(width, edge)
            return width, _up(int(width / ratio), edge)
        height = _up(height, edge)
        return _up(int(height * ratio), edge), height


class Canvas(_Rule):
    """InternVL's and Aya Vision's: squeezed into the grid whose shape is nearest, and the whole image behind its tiles."""

    kind: Literal["canvas"] = "canvas"
    fewest: int
    most: int  # tiles, without the whole image

    def grid(self, size: Size, edge: int) -> Grid:
        """How an image is cut. edge: of a tile."""
        width, height = size
        best, nearest = ONE, math.inf
        for down, across in self._grids():
            off = abs(width / height - across / down)
            tied = off == nearest and width * height > 0.5 * edge * edge * down * across
            if off < nearest or tied:
                best, nearest = (down, across), off
        return best

    def tiles(self, image: Image.Image, seen: Preprocessing) -> Iterator[Pixels]:
        """As `Whole.tiles`, the whole image last."""
        edge = seen.size[0]
        down, across = grid = self.grid(image.size, edge)
        if grid != ONE:
            yield from _cut(rescaled(image, (across * edge, down * edge), seen.interpolation), edge)
        yield np.asarray(rescaled(image, (edge, edge), seen.interpolation))

    def _grids(self) -> list[Grid]:
        """By the number of tiles, narrow ones first."""
        several = range(1, self.most + 1)
        grids = [
            (down, across)
            for across in several
            for down in several
            if self.fewest <= down * across <= self.most
        ]
        return sorted(grids, key=lambda grid: grid[0] * grid[1])


class Resolutions(_Rule):
    """LLaVA-NeXT's: fitted into the best of several resolutions, the whole image before its tiles.

    The rows of a tile are a square, and one more stands behind every line of the fitted image. Rows of what was filled up
    are left out, so how many there are depends on the image's shape itself.
    """

    stretched: ClassVar[bool] = True
    kind: Literal["resolutions"] = "resolutions"
    resolutions: tuple[tuple[int, int], ...]  # height and width in pixels

    def count(self, grid: Grid) -> int:
        """Tiles of an image that is cut like this, with the whole one."""
        return grid[0] * grid[1] + 1

    def grid(self, size: Size, edge: int) -> Grid:
        """How an image is cut. edge: of a tile."""
        height, width = self._best(size)
        return height // edge, width // edge

    def tiles(self, image: Image.Image, seen: Preprocessing) -> Iterator[Pixels]:
        """As `Whole.tiles`, the whole image first."""
        from PIL import Image as Pillow

        edge = seen.size[0]
        yield np.asarray(rescaled(image, (edge, edge), seen.interpolation))
        height, width = self._best(image.size)
        by_width, by_height = width / image.width, height / image.height
        if by_width < by_height:
            fitted = width, min(math.ceil(image.height * by_width), height)
        else:
            fitted = min(math.ceil(image.width * by_height), width), height
        filled = Pillow.new("RGB", (width, height))
        corner = (width - fitted[0]) // 2, (height - fitted[1]) // 2
        filled.paste(rescaled(image, fitted, seen.interpolation), corner)
        yield from _cut(filled, edge)

    def order(self, size: Size, edge: int, tile_rows: int) -> NDArray[np.int64]:
        """Which of the rows of all tiles stand for an image, in their order.

        tile_rows: of a tile: a square, and behind it the row that ends a line.
        """
        side = math.isqrt(tile_rows - 1)
        down, across = self.grid(size, edge)
        tile, line, place = np.mgrid[0 : down * across, 0:side, 0:side]
        rows = (tile + 1) * tile_rows + line * side + place
        fitted = rows.reshape(down, across, side, side).swapaxes(1, 2).reshape(down * side, across * side)
        fitted = _without_filling(fitted, size)
        ends = np.full((len(fitted), 1), side * side)
        return np.concatenate([np.arange(side * side), np.hstack([fitted, ends]).reshape(-1)])

    def _best(self, size: Size) -> tuple[int, int]:
        """Height and width of the resolution that keeps most of an image, with the least to be filled up."""
        width, height = size

        def kept(resolution: tuple[int, int]) -> tuple[int, int]:
            scale = min(resolution[1] / width, resolution[0] / height)
            effective = min(int(width * scale) * int(height * scale), width * height)
            return effective, effective - resolution[0] * resolution[1]

        return max(self.resolutions, key=kept)


class Patches(_Rule):
    """Qwen2-VL's and Qwen2.5-VL's: scaled to whole tiles, each of which is one row with a place of its own (M-RoPE).

    The tower looks at all tiles of an image at once, in patches: `merge` times `merge` of them are a tile.
    """

    limit: ClassVar[int] = 4096
    stretched: ClassVar[bool] = True
    kind: Literal["patches"] = "patches"
    fewest: int
    most: int  # pixels of an image as the tower sees it
    merge: int
    temporal: int  # times that an image is repeated, where a video has frames
    window: int | None = (
        None  # tiles along the edge of a window, of a tower some of whose layers attend within windows
    )

    def grid(self, size: Size, edge: int) -> Grid:
        """How an image is cut. edge: of a tile."""
        width, height = size
        across, down = round(width / edge), round(height / edge)
        if down * across * edge * edge > self.most:
            scale = math.sqrt(width * height / self.most)
            return max(1, math.floor(height / scale / edge)), max(1, math.floor(width / scale / edge))
        if down * across * edge * edge < self.fewest:
            scale = math.sqrt(self.fewest / (width * height))
            return math.ceil(height * scale / edge), math.ceil(width * scale / edge)
        return down, across

    def count(self, grid: Grid) -> int:
        """Tiles of an image that is cut like this: the whole one is not among them."""
        return grid[0] * grid[1]

    def tiles(self, image: Image.Image, seen: Preprocessing) -> Iterator[Pixels]:
        """As `Whole.tiles`."""
        edge = seen.size[0]
        down, across = self.grid(image.size, edge)
        yield from _cut(rescaled(image, (across * edge, down * edge), seen.interpolation), edge)

    def told(self, grid: Grid) -> dict[str, NDArray[np.int64]]:
        """What the tower is told beside the pixels: the places [patches, 2] of patches, down and across. Of a tower with windows
        also the order [tiles] in which those have their tiles; then the patch [windows, most] in each cell of a window, whose
        spare cells repeat its first one, how many patches each window has, and the cell [patches] of each patch."""
        across = grid[1]
        tile = np.moveaxis(np.indices(grid), 0, -1).reshape(-1, 1, 2)
        inside = np.moveaxis(np.indices((self.merge, self.merge)), 0, -1).reshape(1, -1, 2)
        told = {"places": (tile * self.merge + inside).reshape(-1, 2)}
        if self.window is None:
            return told
        window = tile[:, 0, 0] // self.window * -(-across // self.window) + tile[:, 0, 1] // self.window
        lengths = np.bincount(window) * self.merge**2
        first, column = np.cumsum(lengths) - lengths, np.arange(lengths.max())
        there = column < lengths[:, None]
        cells = np.where(there, first[:, None] + column, first[:, None])
        order = np.argsort(window, kind="stable")
        return {**told, "order": order, "cells": cells, "lengths": lengths, "back": np.flatnonzero(there)}


Tiling = Annotated[Whole | Split | Canvas | Resolutions | Patches, Field(discriminator="kind")]


def _without_filling(rows: NDArray[np.int64], size: Size) -> NDArray[np.int64]:
    """The rows [down, across] of an image fitted into a resolution, without those of what was filled up."""
    (width, height), (down, across) = size, rows.shape
    if width / height > across / down:
        filled = (down - int(round(height * (across / width), 7))) // 2
        return rows[filled : down - filled]
    filled = (across - int(round(width * (down / height), 7))) // 2
    return rows[:, filled : across - filled]


def _up(length: int, edge: int) -> int:
    return math.ceil(length / edge) * edge


def _cut(image: Image.Image, edge: int) -> Iterator[Pixels]:
    pixels = np.asarray(image)
    for top in range(0, image.height, edge):
        for left in range(0, image.width, edge):
            yield pixels[top : top + edge, left : left + edge]
