"""A merge is exact in float32, on a plain base and on a dequantised one, and says what a lower precision loses."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from peft import PeftModel
from support.bundles import peft_folder, with_peft
from support.tiny_models import VOCAB, build

from ptune.backbone.float32 import with_own_weights
from ptune.config.recipe import Backbone
from ptune.export.merge import merged
from ptune.parity import log_softmax
from ptune.publish.decoder_run import reference

IDS = torch.from_numpy(np.random.default_rng(2).integers(5, VOCAB, (1, 24)))


@pytest.mark.parametrize("family", ["llama", "gpt2", "llama_tied"])
def test_float32_merge_equals_the_live_adapter(family: str, tmp_path: Path) -> None:
    base = build(tmp_path / "model", family)
    adapter = peft_folder(base, tmp_path / "adapter", spread=0.2, rank_pattern={"q_proj": 2})
    with torch.no_grad():
        expected = log_softmax(with_peft(base, adapter)(IDS).logits.numpy())
        plain, lost = merged(with_peft(base, adapter))
        found = log_softmax(plain(IDS).logits.numpy())
    assert np.abs(expected - found).max() < 2e-4
    assert lost < 1e-4
    assert not any("lora" in name for name in plain.state_dict())


@pytest.mark.parametrize("quantize", ["nf4", "int8"])
def test_quantised_base_is_dequantised_first(quantize: Literal["nf4", "int8"], tmp_path: Path) -> None:
    base = build(tmp_path / "model", "llama")
    adapter = peft_folder(base, tmp_path / "adapter", spread=0.1)
    spec = Backbone(model=str(base), quantize=quantize)
    with torch.no_grad():
        base_model = reference(spec).model
        with_own_weights(base_model)
        live = PeftModel.from_pretrained(base_model, str(adapter)).eval()
        expected = log_softmax(live(IDS).logits.numpy())
        plain, lost = merged(live)
        found = log_softmax(plain(IDS).logits.numpy())
    assert np.abs(expected - found).max() < 2e-4
    assert lost < 1e-4


def test_a_lower_precision_loses_a_small_update(tmp_path: Path) -> None:
    base = build(tmp_path / "model", "llama")
    adapter = peft_folder(base, tmp_path / "adapter", spread=0.002)
    _, lost = merged(with_peft(base, adapter), torch.bfloat16)
    assert lost > 0.05
