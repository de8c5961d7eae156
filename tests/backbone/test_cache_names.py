"""Both names of a cache, and no word of transformers about an old one."""

from __future__ import annotations

import types
import warnings
from typing import Any

import pytest
import torch
from support import tiny_models
from torch import nn
from transformers.utils import logging

from ptune.backbone.cache_names import cache_argument, cache_in

IDS = torch.arange(4, 12)[None]


class OldModel(nn.Module):
    def forward(self, input_ids: Any, past_key_values: Any = None) -> None: ...


def test_a_model_goes_on_from_its_own_cache() -> None:
    model = tiny_models.model("llama").eval()
    with torch.no_grad():
        whole = model(IDS).logits[:, 5:]
        cache = cache_in(model(IDS[:, :5], use_cache=True))
        assert cache.get_seq_length() == 5
        found = model(IDS[:, 5:], use_cache=True, **{cache_argument(model): cache}).logits
    torch.testing.assert_close(found, whole)


def test_transformers_knows_the_names_as_those_that_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """It tells of old ones in its log, or by a warning."""
    said: list[str] = []
    monkeypatch.setattr(
        logging.logging.Logger, "warning_once", lambda self, text, *_: said.append(text), raising=False
    )
    model = tiny_models.model("llama").eval()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error", FutureWarning)
        cache = cache_in(model(IDS[:, :5], use_cache=True))
        model(IDS[:, 5:], use_cache=True, **{cache_argument(model): cache})
    assert not [text for text in said if "cache" in text]


def test_a_model_of_the_old_name() -> None:
    assert cache_argument(OldModel()) == "past_key_values"
    assert cache_in(types.SimpleNamespace(past_key_values="kept")) == "kept"
