"""Rows of features: what a model makes of images, and an embedding that knows them.

Tokens from `ptune.codecs.vision.FIRST_ROW` on are rows of a table. The embedding of a model that was told the table gives them
in place of its own, so that everything behind it (packing, loss, evaluation, proofs) sees images without knowing them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedModel

from ptune.backbone.row_positions import place_rows
from ptune.backbone.tile_features import as_patches, features
from ptune.backbone.vision_language import in_three_dimensions
from ptune.codecs.album import Album
from ptune.codecs.chat import ChatCodec
from ptune.codecs.tiles import Grid, Patches, Whole
from ptune.codecs.vision import FIRST_ROW, Layout, Vision
from ptune.errors import BackboneError, in_one_line
from ptune.formats import cache
from ptune.formats.whole_write import whole_folder
from ptune.progress import Progress

Rows = NDArray[np.float32]  # [rows of all images, width]
_Image = tuple[Layout, NDArray[np.uint8]]  # and its tiles [tiles, height, width, 3]

AT_ONCE = 8  # tiles in a pass of the vision tower
_FILE = "rows.f32"
_PLAIN = "_ptune_plain_forward"
_SHOWN = "_ptune_rows"
_SHAPES = ((300, 300), (700, 400), (60, 200))  # width and height of the images that a model is checked with
CACHED_FROM = 64  # images; fewer are computed in seconds


@dataclass(frozen=True, eq=False)
class Table:
    """What a model sees: rows of features, and the grids of images whose rows have positions by their place (M-RoPE)."""

    rows: Rows
    grids: Mapping[int, Grid] = field(default_factory=dict)  # by the token of an image's first row


def see(model: PreTrainedModel, table: Table) -> None:
    """Lets the model's embedding give rows for tokens from FIRST_ROW on; another table replaces the one before."""
    embedding: Any = model.get_input_embeddings()
    plain = getattr(embedding, _PLAIN, None) or embedding.forward
    setattr(embedding, _PLAIN, plain)

    def forward(ids: Tensor) -> Tensor:
        image = ids >= FIRST_ROW
        embedded: Tensor = plain(ids.masked_fill(image, 0))
        if not image.any():
            return embedded
        wanted = torch.from_numpy(table.rows[(ids[image] - FIRST_ROW).cpu().numpy()])
        embedded = embedded.clone()
        embedded[image] = wanted.to(embedded)
        return embedded

    embedding.forward = forward
    setattr(embedding, _SHOWN, table)
    if in_three_dimensions(model.config):
        place_rows(model, table.grids)


def shown(model: PreTrainedModel) -> Table | None:
    """The table that a model sees; None if it was told none."""
    return getattr(model.get_input_embeddings(), _SHOWN, None)


def show(model: PreTrainedModel, images: Album | None, codec: ChatCodec, identity: str) -> PreTrainedModel:
    """Lets a model see the images of its data, if it sees any. identity: hash of its weights. Returns the model."""
    if codec.vision is not None and images is not None:
        check_seen(model, codec.vision)
        see(model, Table(rows_of(model, images, identity), images.grids))
    return model


def check_seen(model: PreTrainedModel, vision: Vision) -> None:
    """Compares what the model says of images that it gets as pixels, and as rows.

    Raises: BackboneError if the two differ: the model does more with an image than put rows in place of embeddings.
    """
    for size in _SHAPES[: 1 if isinstance(vision.tiling, Whole) else None]:
        noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
        _check_one(model, Album.of(vision, [Image.fromarray(noise)]))


def _check_one(model: PreTrainedModel, image: Album) -> None:
    """`check_seen` with one image."""
    vision, written = image.vision, image.layout(0).written
    around = [one for one in written if one != vision.token] or [0]
    text = torch.tensor([[around[0], *written, around[-1]]], device=model.device)
    places, before = text == vision.token, shown(model)
    rows = torch.arange(FIRST_ROW, image.starts[-1], device=model.device)
    try:
        with torch.no_grad():
            pixels = as_pixels(image, model.device, model.dtype)
            if vision.axes > 1:
                pixels["mm_token_type_ids"] = places.long()
            theirs = model(input_ids=text, **pixels).logits
            see(model, Table(rows_of(model, image, ""), image.grids))
            ours = model(input_ids=text.masked_scatter(places, rows)).logits
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        reason = in_one_line(error)
        raise BackboneError(f"{type(model).__name__} does not see images as LLaVA does: {reason}") from error
    finally:
        see(model, before or Table(_none(model)))
    rounding = 1e-3 if model.dtype == torch.float32 else 0.05
    if float((ours - theirs).abs().max()) > rounding * float(theirs.abs().max()):
        raise BackboneError(
            f"{type(model).__name__} does more with an image than put its rows in place of embeddings, which ptune does not"
            " train yet: take a model that sees images as LLaVA does"
        )


def as_pixels(images: Album, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """What transformers' own model takes for images of one shape in a prompt."""
    pixels = torch.from_numpy(images.vision.preprocessing.normalised(images.tiles)).to(device, dtype)
    if isinstance(rule := images.vision.tiling, Patches):
        grids = [[1, *(rule.merge * edge for edge in images.layout(at).grid)] for at in range(len(images))]
        return {
            "pixel_values": as_patches(pixels, rule),
            "image_grid_thw": torch.tensor(grids, device=device),
        }
    if images.vision.tiled:
        pixels = pixels.unflatten(0, (len(images), -1))
    sizes = torch.from_numpy(images.sizes[:, ::-1].copy()).to(device)  # height before width
    return {"pixel_values": pixels, **({"image_sizes": sizes} if images.vision.sized else {})}


def rows_of(model: PreTrainedModel, images: Album, identity: str) -> Rows:
    """The rows of all images, in their order. Many are kept on disk for the next time.

    identity: hash of the model's weights.
    """
    if len(images) < CACHED_FROM:
        return np.concatenate([*_computed(model, images)] or [_none(model)])
    pixels = hashlib.sha256(np.ascontiguousarray(images.tiles).data).hexdigest()
    sizes, vision = images.sizes.tolist(), images.vision.model_dump(mode="json")
    parts = [identity, str(model.dtype), pixels, sizes, vision, cache.code_hash("backbone", "codecs")]
    with cache.place_for(cache.key_of(parts), "image_rows") as place:
        if place is None:
            return np.concatenate([*_computed(model, images)])
        if cache.sealed(place) is None:
            with whole_folder(place) as part:
                with (part / _FILE).open("wb") as file:
                    for some in _computed(model, images):
                        file.write(some.tobytes())
                cache.seal(part, {})
        return _mapped(place / _FILE, _none(model).shape[1])


def _computed(model: PreTrainedModel, images: Album) -> Iterator[Rows]:
    """The rows of some images after others."""
    with Progress("looking at the images", len(images), unit="images") as progress:
        waiting: list[_Image] = []
        for at, image in enumerate(images, 1):
            waiting.append(image)
            if at < len(images) and sum(layout.tiles for layout, _ in waiting) < AT_ONCE:
                continue
            made = [
                _tile_rows(model, tiles, images.vision, layout.grid) for layout, tiles in _together(waiting)
            ]
            rows = np.concatenate(made)
            for layout, _ in waiting:
                mine, rows = np.split(rows, [layout.tiles * images.vision.tile_rows])
                yield layout.arranged(mine)
            progress.advance(len(waiting))
            waiting = []


def _together(images: list[_Image]) -> list[_Image]:
    """Images whose tiles a tower may look at together: those of one each, or all as if they were of one."""
    if images[0][0].told is not None:
        return images
    return [(images[0][0], np.concatenate([tiles for _, tiles in images]))]


def _tile_rows(model: PreTrainedModel, tiles: NDArray[np.uint8], vision: Vision, grid: Grid) -> Rows:
    """The rows of tiles [tiles, height, width, 3]: [tiles * tile_rows, width]. grid: of an image that is looked at as a whole."""
    made, at_once = [], len(tiles) if isinstance(vision.tiling, Patches) else AT_ONCE
    for start in range(0, len(tiles), at_once):
        pixels = torch.from_numpy(vision.preprocessing.normalised(tiles[start : start + at_once]))
        made.append(features(model, pixels.to(model.device, model.dtype), vision, grid).flatten(0, 1))
    return torch.cat(made).float().cpu().numpy()


def _none(model: nn.Module) -> Rows:
    """The table of no images."""
    assert isinstance(model, PreTrainedModel)
    return np.zeros((0, model.get_input_embeddings().weight.shape[1]), np.float32)


def _mapped(file: Path, width: int) -> Rows:
    return np.memmap(file, np.float32, "r").reshape(-1, width)
