"""What a model that sees makes of the tiles of images: rows of features, as many for each tile.

Most models give them by `get_image_features`. Some do more there: Idefics 3 and SmolVLM sort out tiles that are padding, which
a traced graph cannot, LLaVA-NeXT arranges the rows of all tiles of an image, which `ptune.codecs.tiles` does, and Qwen-VL's
tower looks at all tiles of an image at once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ptune.codecs.tiles import ONE, Grid, Patches, Resolutions, Split
from ptune.codecs.vision import Vision
from ptune.errors import BackboneError


@torch.no_grad()
def features(model: PreTrainedModel, pixels: Tensor, vision: Vision, grid: Grid = ONE) -> Tensor:
    """What the model makes of normalised tiles [tiles, 3, height, width]: [tiles, tile_rows, width].

    grid: of the one image whose tiles these are, for a tower that looks at all of them at once.
    Raises: BackboneError if it makes another number of rows than its prompts show.
    """
    inside: Any = getattr(model, model.base_model_prefix)
    if isinstance(vision.tiling, Split):
        rows: Tensor = inside.connector(inside.vision_model(pixel_values=pixels).last_hidden_state)
    elif isinstance(vision.tiling, Resolutions):
        rows = _with_ends(inside, pixels)
    elif isinstance(vision.tiling, Patches):
        patches = as_patches(pixels, vision.tiling)
        size = torch.tensor([[1, *(vision.tiling.merge * edge for edge in grid)]], device=pixels.device)
        rows = inside.visual(patches, grid_thw=size).pooler_output
    else:
        rows = _by_itself(model, pixels[:, None] if vision.tiled else pixels)
    rows = rows.reshape(len(pixels), -1, rows.shape[-1])
    if rows.shape[1] != vision.tile_rows:
        raise BackboneError(
            f"{type(model).__name__} makes {rows.shape[1]} rows of a tile, and its prompts show {vision.tile_rows}"
        )
    return rows


def as_patches(tiles: Tensor, rule: Patches) -> Tensor:
    """Normalised tiles [tiles, 3, edge, edge] as the tower takes them: [patches, 3 * temporal * patch * patch]."""
    patch = tiles.shape[-1] // rule.merge
    split = tiles.unflatten(3, (rule.merge, patch)).unflatten(2, (rule.merge, patch))
    split = split.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)  # [patches, 3, patch, patch]
    return split[:, :, None].expand(-1, -1, rule.temporal, -1, -1).flatten(1)


def _by_itself(model: PreTrainedModel, pixels: Tensor) -> Tensor:
    found: Any = model.get_image_features(pixel_values=pixels)
    found = getattr(found, "pooler_output", found)
    return torch.cat([*found]) if isinstance(found, list | tuple) else found


def _with_ends(inside: Any, pixels: Tensor) -> Tensor:
    """LLaVA-NeXT's rows of each tile, and behind them the one that ends a line."""
    config = inside.config
    layers = config.vision_feature_layer
    states = inside.vision_tower(pixels, output_hidden_states=True).hidden_states
    chosen = states[layers] if isinstance(layers, int) else torch.cat([states[one] for one in layers], -1)
    if config.vision_feature_select_strategy == "default":
        chosen = chosen[:, 1:]  # without the token for the whole tile
    rows: Tensor = inside.multi_modal_projector(chosen)
    return torch.cat([rows, inside.image_newline.to(rows).expand(len(rows), 1, -1)], 1)
