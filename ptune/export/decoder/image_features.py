"""What turns a tile of an image into rows of features, of any model that sees images, as one ONNX graph beside its decoder's.

Inputs    pixel_values   float  [1, 3, height, width]    normalised as the codec's preprocessing says
Outputs   rows           float  [1, tile_rows, width]    in place of embeddings: EMBEDDING.shift of the decoder's graph

One tile at a time: many models count the images of a batch in Python, which a traced graph cannot, and a tile is enough work
for all threads. A tower that looks at all tiles of an image at once gets them so, as [tiles, 3, height, width] with [tiles, 1, width]
as rows, and is told where they lie (`ptune.export.decoder.whole_image`).
"""

from __future__ import annotations

from pathlib import Path

import onnx_ir
import torch
from onnxscript import optimizer
from torch import Tensor, nn
from transformers import PreTrainedModel

from ptune.backbone.tile_features import features
from ptune.codecs.tiles import Patches
from ptune.codecs.vision import Vision
from ptune.export.decoder.example import DYNAMIC
from ptune.export.decoder.trace import onnx_of
from ptune.export.decoder.whole_image import WholeImage
from ptune.formats.bundle import VISION


class ImageFeatures(nn.Module):
    """The vision tower with everything between it and the decoder."""

    def __init__(self, model: PreTrainedModel, vision: Vision) -> None:
        super().__init__()
        self.model, self.vision = model, vision

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[1, 3, height, width] -> [1, tile_rows, width]"""
        return features(self.model, pixel_values, self.vision)


def write_image_features(folder: Path, model: PreTrainedModel, vision: Vision) -> Path:
    """Writes the graph into a bundle's folder and returns its path. model: in float32.

    Raises: BackboneError with the reason if the tower cannot be exported.
    """
    graph = _of_whole_image(model, vision) if isinstance(vision.tiling, Patches) else _of_tile(model, vision)
    optimizer.optimize(graph)
    path = folder / VISION
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx_ir.save(graph, path, external_data=f"{path.name}.data", size_threshold_bytes=1024)
    return path


def _of_tile(model: PreTrainedModel, vision: Vision) -> onnx_ir.Model:
    tower = ImageFeatures(model, vision).eval()
    image = torch.linspace(-1, 1, 3).reshape(1, 3, 1, 1).expand(1, 3, *vision.preprocessing.size).contiguous()
    return onnx_of(
        tower,
        (image,),
        (None,),
        ["pixel_values"],
        ["rows"],
        model.config.model_type,
        optimize=False,
        along=(),
    )


def _of_whole_image(model: PreTrainedModel, vision: Vision) -> onnx_ir.Model:
    rule = vision.tiling
    assert isinstance(rule, Patches)
    grid = (
        (7, 5) if rule.window is None else (2 * rule.window - 1, rule.window + 1)
    )  # with windows that are not full
    told = {name: torch.from_numpy(value) for name, value in rule.told(grid).items()}
    pixels = torch.rand(grid[0] * grid[1], 3, *vision.preprocessing.size)
    axes = {"cells": {0: DYNAMIC, 1: DYNAMIC}}
    return onnx_of(
        WholeImage(model, rule).eval(),
        (pixels, *told.values()),
        ({0: DYNAMIC}, *(axes.get(name, {0: DYNAMIC}) for name in told)),
        ["pixel_values", *told],
        ["rows"],
        model.config.model_type,
        optimize=False,
        along=(),
    )
