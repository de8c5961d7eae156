"""The vision graph of models that cut images into tiles: the rows that torch makes of each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.tiny_images import picture
from support.tiny_tiles import TILED

from ptune.backbone.image_rows import rows_of
from ptune.backbone.load import load
from ptune.codecs.album import Album
from ptune.config.recipe import Backbone
from ptune.engine.decoder.inputs.images import Tower
from ptune.export.decoder.image_features import write_image_features


@pytest.mark.parametrize("kind", TILED)
def test_the_graph_gives_torchs_rows(kind: str, tmp_path: Path) -> None:
    loaded = load(Backbone(model=str(TILED[kind](tmp_path / "model")), dtype="float32"))
    vision = loaded.codec.vision
    assert vision is not None
    album = Album.of(vision, [picture(90, 30, seed=1), picture(30, 30, seed=2)])
    expected = rows_of(loaded.model, album, "")
    tower = Tower(write_image_features(tmp_path / "bundle", loaded.model, vision), 1)
    found = [tower.see(vision.preprocessing.normalised(tiles), layout).rows for layout, tiles in album]
    assert len({len(rows) for rows in found}) == 2
    np.testing.assert_allclose(np.concatenate(found), expected, atol=1e-4 * np.abs(expected).max())
