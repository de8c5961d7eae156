"""How a model's own image processor cuts images into tiles, and what its prompts show for them: found by asking it.

Every rule of `ptune.codecs.tiles` that a processor's settings could mean is tried on pictures of several shapes; the one that
gives the processor's pixels is taken. Then the processor writes a prompt for every grid of tiles that the rule can give.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ptune.backbone.image_processor import of_processor, of_tiles
from ptune.backbone.tile_features import as_patches
from ptune.codecs.image import Preprocessing
from ptune.codecs.tiles import Canvas, Grid, Patches, Resolutions, Size, Split, Tiling, Whole
from ptune.codecs.vision import Layout, Shown, Vision
from ptune.errors import BackboneError, DataError

_SIZES: tuple[Size, ...] = ((64, 48), (40, 200), (300, 300), (1000, 700))
_CLOSE = (
    0.25 / 255
)  # mean difference of pixels from 0 to 1: torchvision and Pillow round a resize each in its way


@dataclass(frozen=True)
class _Asked:
    """What a processor makes of a prompt that is nothing but images."""

    ids: tuple[int, ...]
    pixels: NDArray[np.float32]  # [tiles, 3, height, width], or [patches, numbers]
    inputs: Mapping[str, Any]


class Asking:
    """A model's own processor, and pictures to ask it about. Raises: BackboneError, everywhere."""

    def __init__(self, model: str, processor: Any, token: int, tower: Any) -> None:
        """tower: the config of what looks at images."""
        self._model, self._processor, self._token, self._tower = model, processor, token, tower
        self._text = processor.tokenizer.convert_ids_to_tokens(token)

    def vision(self) -> Vision:
        """How prompts show images."""
        asked = [(picture(size), self._asked(picture(size))) for size in _SIZES]
        preprocessing, tiling = self._rule(asked)
        shown = {
            grid: self._shown(grid, size) for grid, size in _of_every_grid(tiling, preprocessing.size[0])
        }
        first = asked[0][1]
        vision = Vision(
            preprocessing=preprocessing,
            tiling=tiling,
            token=self._token,
            shown=tuple(shown.values()),
            tile_rows=_tile_rows(tiling, shown, self._token),
            tiled=np.ndim(first.inputs["pixel_values"]) == 5,
            sized="image_sizes" in first.inputs,
        )
        for image, made in asked:
            self._check(vision, image.size, made)
        self._check_company(vision)
        return vision

    def _asked(self, *images: Image.Image) -> _Asked:
        made = self._processor(
            text=[self._text * len(images)], images=[*images], add_special_tokens=False, return_tensors="np"
        )
        pixels = np.asarray(made["pixel_values"])
        ids = tuple(map(int, np.asarray(made["input_ids"])[0]))
        return _Asked(ids, pixels if pixels.ndim == 2 else pixels.reshape(-1, *pixels.shape[-3:]), made)

    def _rule(self, asked: list[tuple[Image.Image, _Asked]]) -> tuple[Preprocessing, Tiling]:
        """The preprocessing of a tile, and how images are cut, that give the processor's own pixels."""
        processor, reason = self._processor.image_processor, None
        for tiling in _candidates(processor, self._tower):
            try:
                seen = of_processor(processor) if isinstance(tiling, Whole) else of_tiles(processor)
            except BackboneError as error:
                reason = error
                continue
            if all(_same(made.pixels, image, seen, tiling) for image, made in asked):
                return seen, tiling
        raise BackboneError(
            f"{self._model}: what its image processor does cannot be done without torch, by none of the ways to cut an image"
            f" into tiles that ptune knows"
        ) from reason

    def _shown(self, grid: Grid, size: Size) -> Shown:
        ids = self._asked(picture(size)).ids
        if self._token not in ids:
            raise BackboneError(
                f"{self._model}: its processor writes no image token {self._token} for an image"
            )
        runs = tuple((token, len([*same])) for token, same in groupby(ids))
        return Shown(down=grid[0], across=grid[1], runs=runs)

    def _check(self, vision: Vision, size: Size, made: _Asked) -> None:
        """Whether the processor writes for a picture what prompts will show, without padding in its tiles."""
        try:
            written: Layout | None = vision.layout(size)
        except DataError:
            written = None
        if written is None or written.written != made.ids:
            raise BackboneError(
                f"{self._model}: what its processor writes for an image of {size[0]} x {size[1]} pixels does not follow from how"
                " it is cut into tiles, which ptune does not do yet"
            )
        if not np.all(made.inputs.get("pixel_attention_mask", 1)):
            raise BackboneError(f"{self._model}: parts of its tiles are padding, which ptune does not do yet")

    def _check_company(self, vision: Vision) -> None:
        """Whether two images in a prompt are shown as each alone."""
        sizes = _SIZES[1], _SIZES[3]
        expected = sum((vision.layout(size).written for size in sizes), ())
        if self._asked(*map(picture, sizes)).ids != expected:
            raise BackboneError(
                f"{self._model} shows an image otherwise where another stands beside it, which ptune does not do yet"
            )


def picture(size: Size) -> Image.Image:
    """A smooth picture of this width and height, always the same."""
    noise = np.random.default_rng(0).integers(0, 256, (25, 25, 3), np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def _candidates(processor: Any, tower: Any) -> Iterator[Tiling]:
    """How a processor could cut images, by what it has settings for."""
    yield Whole()
    fields = processor.to_dict()
    size = {name: value for name, value in dict(fields.get("size") or {}).items() if value is not None}
    if fields.get("max_image_size") and "longest_edge" in size:
        yield Split(longest=size["longest_edge"], cut=bool(fields.get("do_image_splitting")))
    if fields.get("max_patches"):
        yield Canvas(fewest=fields.get("min_patches") or 1, most=min(fields["max_patches"], Canvas.limit - 1))
    if fields.get("image_grid_pinpoints"):
        pinpoints = fields["image_grid_pinpoints"]
        yield Resolutions(resolutions=tuple((int(height), int(width)) for height, width in pinpoints))
    if fields.get("merge_size") and fields.get("temporal_patch_size"):
        merge, window = int(fields["merge_size"]), getattr(tower, "window_size", None)
        yield Patches(
            fewest=size["shortest_edge"],
            most=size["longest_edge"],
            merge=merge,
            temporal=fields["temporal_patch_size"],
            window=window and window // merge // fields["patch_size"],
        )


def _same(pixels: NDArray[np.float32], image: Image.Image, seen: Preprocessing, tiling: Tiling) -> bool:
    """Whether a rule gives a processor's pixels, but for rounding."""
    own = seen.normalised(np.stack([*tiling.tiles(image, seen)]))
    if isinstance(tiling, Patches):
        own = as_patches(torch.from_numpy(own), tiling).numpy()
    return own.shape == pixels.shape and float(np.abs(own - pixels).mean()) <= _CLOSE / min(seen.std)


def _of_every_grid(tiling: Tiling, edge: int) -> list[tuple[Grid, Size]]:
    """Every grid of tiles, each with a size of images that are cut so."""
    if isinstance(tiling, Whole):
        sizes: list[Size] = [(edge, edge)]
    elif isinstance(tiling, Patches):
        sizes = [(8 * edge, 8 * edge)]  # of all grids the same is written, as often as there are rows
    elif isinstance(tiling, Resolutions):
        sizes = [(width, height) for height, width in tiling.resolutions]
    else:
        most = tiling.most if isinstance(tiling, Canvas) else -(-tiling.longest // edge)
        less = edge // 2 if isinstance(tiling, Split) else 0
        several = range(1, most + 1)
        sizes = [(across * edge - less, down * edge - less) for down in several for across in several]
    found: dict[Grid, Size] = {}
    for size in sorted(sizes, key=lambda size: size[0] * size[1]):
        grid = tiling.grid(size, edge)
        if tiling.count(grid) <= tiling.limit:
            found.setdefault(grid, size)
    return [*found.items()]


def _tile_rows(tiling: Tiling, shown: Mapping[Grid, Shown], token: int) -> int:
    """Rows of features that a tile has, by what is written for all grids of tiles."""
    (grid, first), *_ = shown.items()
    rows = sum(count for one, count in first.runs if one == token)
    if not isinstance(tiling, Resolutions):
        return rows // tiling.count(grid)
    # of an image without filling: the tiles' squares, and a row behind each line
    down, across = grid
    side = next(
        side for side in range(1, rows + 1) if side * side * (1 + down * across) + side * down >= rows
    )
    return side * side + 1
