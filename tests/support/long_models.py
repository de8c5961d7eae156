"""Tiny models with a real context of 32k or 128k tokens, by each kind of rotary embedding that long models have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from ptune.backbone.cache_names import cache_argument
from ptune.backbone.load import load
from ptune.config.recipe import Backbone
from ptune.export.weights import ModelWeights
from ptune.export.write import write_bundle
from ptune.formats.bundle import Bundle
from support.tiny_models import VOCAB, build

FAR = 131_072
_SMALL: dict[str, Any] = {
    "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "hidden_size": 32, "intermediate_size": 64,
}  # fmt: skip
# As in the configs of Llama 3.1, Qwen 2.5 with YaRN and Phi 3.5; dynamic NTK scaling; and Mistral's windows.
KINDS: dict[str, tuple[str, int | None, dict[str, Any]]] = {  # family, `backbone.context`, config
    "llama3": (
        "llama",
        None,
        {
            "max_position_embeddings": FAR,
            "rope_parameters": {
                "rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
        },
    ),
    "yarn": (
        "qwen2",
        None,
        {
            "max_position_embeddings": FAR,
            "rope_parameters": {
                "rope_type": "yarn", "rope_theta": 1_000_000.0, "factor": 4.0, "original_max_position_embeddings": 32_768,
            },
        },
    ),
    "longrope": (
        "phi3",
        FAR,
        {
            "max_position_embeddings": FAR,
            "original_max_position_embeddings": 4096,
            "rope_parameters": {
                "rope_type": "longrope", "rope_theta": 10_000.0, "short_factor": [1.0 + 0.02 * at for at in range(8)],
                "long_factor": [1.1 + 6.0 * at for at in range(8)],
            },
        },
    ),
    "dynamic": (
        "llama",
        FAR,
        {
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 8.0},
        },
    ),
    "window": (
        "mistral",
        None,
        {
            "max_position_embeddings": FAR,
            "sliding_window": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
        },
    ),
}  # fmt: skip


def long_bundle(folder: Path, kind: str) -> tuple[Path, Bundle]:
    """A model folder and its bundle."""
    family, context, changes = KINDS[kind]
    base = build(folder / "model", family, **_SMALL, **changes)
    loaded = load(Backbone(model=str(base), context=context), device="cpu")
    weights = ModelWeights(loaded.model)
    return base, write_bundle(folder / "bundle", loaded.model.config, weights, loaded.codec, loaded.identity)


def prompt(tokens: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(5, VOCAB, tokens).tolist()


class Plain:
    """transformers' own model, which reads a text in pieces."""

    def __init__(self, folder: Path) -> None:
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def behind(self, start: int, keys: Sequence[Any], tokens: Sequence[int]) -> np.ndarray[Any, Any]:
        """Logits [tokens, vocab] of tokens whose first has the position `start`, behind any keys and values [kv_heads, start, dim]."""
        cache = transformers.DynamicCache()
        for layer in range(0, len(keys), 2):
            key, value = (torch.from_numpy(keys[layer + at])[None] for at in (0, 1))
            cache.update(key, value, layer // 2)
        return self._read(cache, start, tokens)

    def said(self, tokens: Sequence[int], last: int) -> np.ndarray[Any, Any]:
        """Logits [last, vocab] of a text's last tokens.

        LongRoPE is read at once, since transformers chooses its frequencies by the last position of what it reads.
        """
        at_once = self.model.config.rope_parameters["rope_type"] == "longrope"
        piece = len(tokens) if at_once else 1024
        cache, cut = transformers.DynamicCache(), len(tokens) - last
        for start in range(0, cut, piece):
            self._read(cache, start, tokens[start : min(start + piece, cut)])
        return self._read(cache, cut, tokens[cut:])

    def _read(self, cache: Any, start: int, tokens: Sequence[int]) -> np.ndarray[Any, Any]:
        positions = torch.arange(start, start + len(tokens))[None]
        with torch.no_grad():
            out = self.model(
                torch.tensor([[*tokens]]),
                position_ids=positions,
                use_cache=True,
                **{cache_argument(self.model): cache},
            )
        return out.logits[0].numpy()
