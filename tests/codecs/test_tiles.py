"""Tiles of images of any shape: transformers' own pixels, and what its processors write for them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.tiny_images import picture
from support.tiny_tiles import TILED, idefics3, with_pillow

from ptune.backbone.load import load_codec
from ptune.backbone.tile_features import as_patches
from ptune.codecs.album import Album
from ptune.codecs.tiles import Canvas, Patches, Split
from ptune.codecs.vision import FIRST_ROW, Vision
from ptune.config.recipe import Backbone
from ptune.errors import DataError

EDGES = st.integers(2, 400)


@cache
def made(kind: str) -> tuple[Vision, Any]:
    """How ptune shows images of a tiny model, and transformers' own processor."""
    with TemporaryDirectory() as folder:
        path = TILED[kind](Path(folder) / kind)
        vision = load_codec(Backbone(model=str(path))).vision
        assert vision is not None
        return vision, with_pillow(path)


@pytest.mark.parametrize("kind", TILED)
@settings(max_examples=40, deadline=None)
@given(width=EDGES, height=EDGES)
def test_pixels_and_tokens_of_any_shape_are_the_processors_own(kind: str, width: int, height: int) -> None:
    vision, processor = made(kind)
    image = picture(width, height, seed=width)
    theirs = processor(text=[processor.image_token], images=[image], return_tensors="np")
    pixels = np.asarray(theirs["pixel_values"])
    own = vision.preprocessing.normalised(vision.tiles(image))
    layout = vision.layout(image.size)
    assert layout.tiles == len(own)
    if isinstance(vision.tiling, Patches):
        down, across = layout.grid
        assert np.asarray(theirs["image_grid_thw"]).tolist() == [[1, 2 * down, 2 * across]]
        np.testing.assert_allclose(as_patches(torch.from_numpy(own), vision.tiling), pixels, atol=1e-5)
    else:
        np.testing.assert_allclose(own, pixels.reshape(-1, *pixels.shape[-3:]), atol=1e-5)
    assert [*layout.written] == np.asarray(theirs["input_ids"])[0].tolist()
    assert layout.rows == layout.written.count(vision.token)


def test_an_image_that_is_not_to_be_cut_is_one_tile(tmp_path: Path) -> None:
    path = idefics3(tmp_path / "whole", cut=False)
    vision, processor = load_codec(Backbone(model=str(path))).vision, with_pillow(path)
    assert vision is not None
    for size in ((90, 20), (10, 300)):
        theirs = processor(text=["<image>"], images=[picture(*size)], return_tensors="np")
        own = vision.preprocessing.normalised(vision.tiles(picture(*size)))
        np.testing.assert_allclose(own, theirs["pixel_values"][0], atol=1e-5)
        assert [*vision.layout(size).written] == theirs["input_ids"][0].tolist()


def test_a_shape_that_makes_too_many_tiles_is_refused() -> None:
    vision, _ = made("internvl")
    wider = vision.model_copy(update={"tiling": Canvas(fewest=1, most=12)})
    with pytest.raises(
        DataError, match=r"1000 x 100 pixels, makes 1 x 10 tiles.*crop it, or make it smaller"
    ):
        wider.tiles(Image.new("RGB", (1000, 100)))


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 400))
def test_a_split_image_is_cut_into_whole_tiles_of_bounded_number(width: int, height: int, edge: int) -> None:
    down, across = Split(longest=4 * edge).grid((width, height), edge)
    assert 1 <= down <= 4 or edge * 4 > 4096
    assert max(down, across) <= -(-min(4 * edge, 4096) // edge)


def test_rows_of_an_album_are_numbered_one_image_behind_the_other() -> None:
    vision, _ = made("llava_next")
    images = [picture(90, 30), picture(20, 50), picture(31, 30)]
    album = Album.of(vision, images)
    rows = [vision.layout(image.size).rows for image in images]
    assert len({*rows}) > 1
    assert album.starts == [FIRST_ROW, FIRST_ROW + rows[0], FIRST_ROW + sum(rows[:2]), FIRST_ROW + sum(rows)]
    assert [album.holding(start) for start in album.starts[:3]] == [0, 1, 2]
    assert [album.holding(start - 1) for start in album.starts[1:]] == [0, 1, 2]
    some = album.only([2, 0])
    np.testing.assert_array_equal(some.tiles_of(0), vision.tiles(images[2]))
    np.testing.assert_array_equal(some.tiles_of(1), vision.tiles(images[0]))
    assert some.placed(1).size == (90, 30)


def test_an_image_that_is_too_long_or_has_too_many_tiles_for_a_tower_is_refused() -> None:
    vision, _ = made("qwen2_vl")
    with pytest.raises(DataError, match=r"1000 x 3 pixels, is too long and narrow"):
        vision.tiles(Image.new("RGB", (1000, 3)))
    assert isinstance(vision.tiling, Patches)
    without = vision.model_copy(update={"tiling": vision.tiling.model_copy(update={"most": 10**9})})
    with pytest.raises(DataError, match=r"makes 71 x 71 tiles, and this model takes at most 4096"):
        without.tiles(Image.new("RGB", (1000, 1000)))


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 4))
def test_windows_hold_every_patch_once(down: int, across: int, window: int) -> None:
    """In the order of windows, patch by patch; spare cells repeat a window's first patch."""
    told = Patches(fewest=1, most=10**9, merge=2, temporal=2, window=window).told((down, across))
    patches = 4 * down * across
    assert sorted(told["order"].tolist()) == [*range(down * across)]
    assert told["cells"].reshape(-1)[told["back"]].tolist() == [*range(patches)]
    for cells, length in zip(told["cells"], told["lengths"], strict=True):
        assert cells[:length].tolist() == [*range(cells[0], cells[0] + length)]
        assert {*cells[length:].tolist()} <= {cells[0]}
