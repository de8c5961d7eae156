"""Keys and values of embeddings that stand at the beginning of a text, as a causal model computes them."""

from __future__ import annotations

import torch
from transformers import DynamicCache

from ptune.backbone.cache_names import cache_argument
from ptune.parity import Array


@torch.no_grad()
def prompt_cache(model: torch.nn.Module, embeddings: Array) -> list[tuple[Array, Array]]:
    """Returns keys and values [kv_heads, n, dim] of each layer, in float32. embeddings: [n, width], at positions 0 to n - 1."""
    cache = (
        DynamicCache()
    )  # without a config it forgets nothing, behind whatever window the layers look through
    first = next(model.parameters())
    prompt = torch.from_numpy(embeddings)[None].to(first.device, first.dtype)
    model(inputs_embeds=prompt, use_cache=True, **{cache_argument(model): cache})
    return [(_plain(layer.keys), _plain(layer.values)) for layer in cache.layers]


def _plain(side: torch.Tensor) -> Array:
    """[1, kv_heads, n, dim] -> [kv_heads, n, dim]"""
    return side[0].float().cpu().contiguous().numpy()
