"""Images in a chat: what stands for one in a prompt, and where its features go. Torch-free: shared by training and serving.

A model that sees cuts an image into tiles, and turns each into rows of features, which take the place of embeddings. In ptune's tokens each of
these rows has a number of its own, from FIRST_ROW on: a table says what is in it. So an example, a prompt and the cache of
prefixes hold text and images as one list of numbers, and two images never have the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, count
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from ptune.codecs.example import Example
from ptune.codecs.image import Preprocessing
from ptune.codecs.tiles import Grid, Patches, Resolutions, Size, Tiling, Whole
from ptune.errors import DataError, TemplateError

if TYPE_CHECKING:
    from PIL import Image

FIRST_ROW = 1 << 30
"""Tokens from here on are rows of images: no vocabulary is as large."""
KINDS = ("image", "image_url")
"""Types of the parts of a message that are images: transformers' and OpenAI's."""
ROW, SIZE = "first_row", "size"
"""Keys of an image part: the token of its first row, and the image's width and height."""
NARROW = 200
"""How many times as long as wide an image in patches may be."""


class Placed(NamedTuple):
    """An image in a conversation."""

    first_row: int  # the token of its first row
    size: Size  # width and height of the image itself


class Shown(BaseModel):
    """What a prompt shows for an image that is cut into this grid."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    down: int
    across: int
    runs: tuple[tuple[int, int], ...]  # a token, and how often it stands there


@dataclass(frozen=True)
class Layout:
    """What becomes of an image of one size."""

    tiling: Tiling
    grid: Grid
    tiles: int
    written: tuple[int, ...]  # tokens in a prompt, with the image's token for each row
    rows: int
    order: NDArray[np.int64] | None = None  # [rows], among the rows of all tiles; None: as they come

    def arranged(self, made: Any) -> Any:
        """The rows that a prompt shows, out of those of all tiles [tiles * tile_rows, width]: [rows, width]."""
        return made if self.order is None else made[self.order]

    @property
    def places(self) -> Grid | None:
        """Rows down and across, where each has a position by its place (M-RoPE)."""
        return self.grid if isinstance(self.tiling, Patches) else None

    @cached_property
    def told(self) -> dict[str, NDArray[np.int64]] | None:
        """What a tower is told beside the pixels if it looks at all tiles at once; None if it looks at each alone."""
        return self.tiling.told(self.grid) if isinstance(self.tiling, Patches) else None


class Vision(BaseModel):
    """How a model's prompts show an image. All of it follows from the image's width and height."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    preprocessing: Preprocessing  # of a tile
    tiling: Tiling = Whole()
    token: int  # what the chat template writes for an image
    shown: tuple[Shown, ...]  # what the model reads in its place, for every grid
    tile_rows: int  # rows of features that the model makes of a tile
    tiled: bool = False  # whether the model takes images as [images, tiles, 3, height, width]
    sized: bool = False  # whether it takes their heights and widths, too

    @property
    def axes(self) -> int:
        """Dimensions of a token's position."""
        return 3 if isinstance(self.tiling, Patches) else 1

    def layout(self, size: Size) -> Layout:
        """What becomes of an image of this width and height. Raises: DataError if its shape gives too many tiles."""
        edge, rule = self.preprocessing.size[0], self.tiling
        grid = rule.grid(size, edge)
        tiles, runs = rule.count(grid), self._runs(grid)
        if isinstance(rule, Patches) and max(size) > NARROW * min(size):
            raise DataError(f"the image, {size[0]} x {size[1]} pixels, is too long and narrow: crop it")
        if runs is None or tiles > rule.limit:
            raise DataError(
                f"the image, {size[0]} x {size[1]} pixels, makes {grid[0]} x {grid[1]} tiles, and this model takes at most"
                f" {rule.limit} and no other shapes than it was asked about: crop it, or make it smaller"
            )
        order = rule.order(size, edge, self.tile_rows) if isinstance(rule, Resolutions) else None
        rows = tiles * self.tile_rows if order is None else len(order)
        counts = [rows if rule.stretched and token == self.token else count for token, count in runs]
        tokens = (token for token, _ in runs)
        written = chain(*([token] * count for token, count in zip(tokens, counts, strict=True)))
        return Layout(rule, grid, tiles, tuple(written), rows, order)

    def _runs(self, grid: Grid) -> tuple[tuple[int, int], ...] | None:
        """What stands in a prompt for an image of a grid; None if the model was not asked."""
        if isinstance(self.tiling, Patches):
            return self.shown[0].runs
        return next((one.runs for one in self.shown if (one.down, one.across) == grid), None)

    def tiles(self, image: Image.Image) -> NDArray[np.uint8]:
        """The tiles of an RGB image [tiles, height, width, 3], not normalised. Raises: DataError, as `layout`."""
        self.layout(image.size)
        return np.stack([*self.tiling.tiles(image, self.preprocessing)])

    @property
    def most_written(self) -> int:
        """Tokens that an image takes at most."""
        if isinstance(self.tiling, Patches):
            return min(self.tiling.limit, self.tiling.most // self.preprocessing.size[0] ** 2)
        return max(sum(count for _, count in one.runs) for one in self.shown)

    def prompt(self, ids: Sequence[int], images: Sequence[Placed]) -> list[int]:
        """A prompt with its images written out. Raises: TemplateError if the template does not show each once."""
        self._check(ids, len(images))
        return self._spread(ids, images)[0]

    def examples(self, examples: Sequence[Example], images: Sequence[Placed]) -> list[Example]:
        """The examples of a conversation, the longest last, with their images written out.

        images: those before the last answer. Raises: TemplateError if the template does not show each once.
        """
        self._check(examples[-1].ids, len(images))
        seen = []
        for example in examples:
            if example.ids.count(self.token) > len(images):  # shown once, and left out where more follows
                self._check(example.ids, len(images))
            ids, places = self._spread(example.ids, images)
            seen.append(Example(tuple(ids), tuple(example.targets[place] for place in places)))
        return seen

    def plain(self, ids: Sequence[int]) -> list[int]:
        """The tokens as transformers has them, where every row of every image is the same token."""
        return [self.token if token >= FIRST_ROW else token for token in ids]

    def _spread(self, ids: Sequence[int], images: Sequence[Placed]) -> tuple[list[int], list[int]]:
        """Tokens with each image written out, and for each of them its index in `ids`.

        images: in order; those behind the last one shown are not used.
        """
        spread: list[int] = []
        places: list[int] = []
        left = iter(images)
        for place, token in enumerate(ids):
            written: Sequence[int] = [token]
            if token == self.token:
                written = self._numbered(next(left))
            spread += written
            places += [place] * len(written)
        return spread, places

    def _numbered(self, image: Placed) -> list[int]:
        """What is written for an image, each row under its own number."""
        rows = count(image.first_row)
        return [next(rows) if one == self.token else one for one in self.layout(image.size).written]

    def _check(self, ids: Sequence[int], count: int) -> None:
        shown = sum(token == self.token for token in ids)
        if shown != count:
            raise TemplateError(
                f"the chat template shows {shown} of {count} images: use one that writes the model's token for images once for"
                " each part of type image (--task.template FILE)"
            )


def with_rows(
    messages: Sequence[Mapping[str, Any]], place: Callable[[Mapping[str, Any]], Placed]
) -> list[Mapping[str, Any]]:
    """Messages in which each part that is an image names its first row and its size. place: a part -> those.

    Whatever is malformed stays as it is, for `normalise` to refuse.
    """

    def placed(part: Any) -> Any:
        return part_of(place(part)) if is_image(part) else part

    return [
        {**message, "content": [placed(part) for part in message["content"]]}
        if isinstance(message, Mapping) and isinstance(message.get("content"), list | tuple)
        else message
        for message in messages
    ]


def is_image(part: Any) -> bool:
    """Whether a part of a message is an image."""
    return isinstance(part, Mapping) and part.get("type") in KINDS


def has_images(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a part of some message is an image."""
    return next(_images(messages), None) is not None


def image_count(messages: Sequence[Mapping[str, Any]]) -> int:
    """How many parts of messages are images."""
    return sum(1 for _ in _images(messages))


def part_of(image: Placed) -> dict[str, Any]:
    """The part of a message that is an image."""
    return {"type": "image", ROW: image.first_row, SIZE: image.size}


def placed_in(messages: Sequence[Mapping[str, Any]]) -> list[Placed]:
    """The images of checked messages, in order."""
    return [Placed(part[ROW], part[SIZE]) for part in _images(messages)]


def _images(messages: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    for message in messages:
        content = message.get("content") if isinstance(message, Mapping) else None
        yield from filter(is_image, content if isinstance(content, list | tuple) else ())
