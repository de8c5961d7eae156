"""A vision tower that looks at all tiles of an image at once, in patches of any number: Qwen2-VL's and Qwen2.5-VL's, for the graph.

What transformers works out of an image's grid in Python comes in as inputs (`ptune.codecs.tiles.Patches.told`), and attention,
which it computes segment by segment, is onnxruntime's: over all patches, or over the windows of some layers as rows of a batch.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ptune.backbone.tile_features import as_patches
from ptune.codecs.tiles import Patches
from ptune.errors import BackboneError


class WholeImage(nn.Module):
    """The tower with everything between it and the decoder."""

    def __init__(self, model: PreTrainedModel, rule: Patches) -> None:
        super().__init__()
        self.rule = rule
        self.tower: Any = getattr(model, model.base_model_prefix).visual

    def forward(
        self,
        pixel_values: Tensor,
        places: Tensor,
        order: Tensor | None = None,
        cells: Tensor | None = None,
        lengths: Tensor | None = None,
        back: Tensor | None = None,
    ) -> Tensor:
        """[tiles, 3, edge, edge] -> [tiles, 1, width]. The others: see `Patches.told`."""
        patches = as_patches(pixel_values, self.rule)
        windows = None if lengths is None else lengths.to(torch.int32)
        told = {"position_ids": places, "cu_seqlens": torch.zeros(1, dtype=torch.int32)}
        if windows is not None:
            told |= {"window_index": order, "cu_window_seqlens": windows}
        with _attending(self.tower, windows, cells, back):
            rows: Tensor = self.tower(patches, grid_thw=None, **told).pooler_output
        return rows[:, None]


@contextlib.contextmanager
def _attending(
    tower: nn.Module, windows: Tensor | None, cells: Tensor | None, back: Tensor | None
) -> Iterator[None]:
    """Lets the tower's layers attend as the graph does.

    windows: patches of each [windows]: layers that are handed these attend within them, the others everywhere. cells, back: see
    `Patches.told`.
    """

    def attend(
        module: Any,
        hidden_states: Tensor,
        cu_seqlens: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        **_: Any,
    ) -> Tensor:
        heads = module.num_heads
        split = module.qkv(hidden_states).unflatten(1, (3, heads, -1))
        turn = sys.modules[type(module).__module__].apply_rotary_pos_emb_vision
        query, key = turn(split[:, 0], split[:, 1], *position_embeddings)
        states = [one.flatten(1)[None] for one in (query, key, split[:, 2])]  # [1, patches, width]
        if cu_seqlens is not windows:
            return module.proj(_multi_head(states, heads, module.scaling, None)[0])
        assert cells is not None
        assert back is not None
        rows = [one[0][cells] for one in states]  # [windows, patches of the largest, width]
        out = _multi_head(rows, heads, module.scaling, windows)
        return module.proj(out.flatten(0, 1)[back])

    layers = [module for module in tower.modules() if hasattr(module, "qkv") and hasattr(module, "num_heads")]
    if not layers:
        raise BackboneError(f"{type(tower).__name__} has no attention that can be exported")
    for layer in layers:
        layer.forward = attend.__get__(layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _multi_head(states: list[Tensor], heads: int, scale: float, lengths: Tensor | None) -> Tensor:
    """Attention of rows [rows, patches, width] to their first `lengths` [rows] patches; None: to all."""
    out: Tensor = torch.onnx.ops.symbolic(
        "com.microsoft::MultiHeadAttention",
        states if lengths is None else [*states, None, lengths],
        {"num_heads": heads, "scale": float(scale)},
        version=1,
        dtype=states[0].dtype,
        shape=[*states[0].shape],
    )
    return out
