"""A merge is exact in float32, on a plain base and on a dequantised one, and says what a lower precision loses."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from peft import PeftModel
from support import own_memory
from support.bundles import peft_folder, with_peft
from support.tiny_models import VOCAB, build
from torch import nn
from transformers import AutoModelForCausalLM

from ptune.config.recipe import Backbone
from ptune.export.merge import merged, merged_of_any
from ptune.methods.lora import Lora
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


@pytest.mark.parametrize("end", ["head", "embedding"])
@pytest.mark.parametrize("family", ["llama", "llama_tied"])
def test_dora_of_an_end_that_is_tied_to_the_other_leaves_that_as_it_is(
    family: str, end: Literal["head", "embedding"], tmp_path: Path
) -> None:
    base = build(tmp_path / "model", family)
    live = Lora(r=4, dora=True, ends=(end,)).apply(AutoModelForCausalLM.from_pretrained(base)).eval()
    assert isinstance(live, PeftModel)
    for parameter in live.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.3)
    with torch.no_grad():
        expected = log_softmax(live(IDS).logits.numpy())
        plain, _ = merged_of_any(live)
        plain.save_pretrained(tmp_path / "merged")
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
        found = [log_softmax(one(IDS).logits.numpy()) for one in (plain, again)]
    assert [bool(np.abs(expected - one).max() < 2e-4) for one in found] == [True, True]


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("quantize", ["nf4", "int8"])
def test_quantised_base_is_dequantised_first(
    quantize: Literal["nf4", "int8"], mapped: bool, tmp_path: Path
) -> None:
    base = build(tmp_path / "model", "llama")
    adapter = peft_folder(base, tmp_path / "adapter", spread=0.1, target_modules=["q_proj", "down_proj"])
    spec = Backbone(model=str(base), quantize=quantize)
    with torch.no_grad():
        live = PeftModel.from_pretrained(reference(spec).model, str(adapter)).eval()
        expected = log_softmax(live(IDS).logits.numpy())
        place = tmp_path / "weights"
        place.mkdir()
        plain, lost = merged(live, folder=place if mapped else None)
        assert not any(place.iterdir())
        found = log_softmax(plain(IDS).logits.numpy())
    assert np.abs(expected - found).max() < 2e-4
    assert lost < 1e-4


MERGE = """
import torch
from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM
from ptune.config.recipe import Backbone
from ptune.export.merge import merged, merged_of_any
from ptune.methods.lora import Lora
from ptune.publish.decoder_run import reference

model = reference(Backbone(model=sys.argv[1], quantize="nf4")).model
live = PeftModel.from_pretrained(model, sys.argv[2])
with measured():
    plain, _ = merged(live, torch.bfloat16, Path(sys.argv[3]))
    plain.save_pretrained(sys.argv[4])
"""


def test_memory_never_holds_the_merged_model(tmp_path: Path) -> None:
    size = {"hidden_size": 1024, "intermediate_size": 1024, "num_hidden_layers": 8}
    base = build(tmp_path / "model", "llama", **size)
    adapter = peft_folder(base, tmp_path / "adapter")
    (place := tmp_path / "weights").mkdir()
    gained = own_memory.gained(MERGE, base, adapter, place, tmp_path / "merged")
    weights = sum(path.stat().st_size for path in (tmp_path / "merged").glob("*.safetensors"))
    assert gained < weights / 2


def test_a_full_disk_is_an_error_before_a_page_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    base = build(tmp_path / "model", "llama")
    adapter = peft_folder(base, tmp_path / "adapter")
    with pytest.raises(OSError, match="No space"):
        merged(with_peft(base, adapter), folder=tmp_path)


def test_a_lower_precision_loses_a_small_update(tmp_path: Path) -> None:
    base = build(tmp_path / "model", "llama")
    adapter = peft_folder(base, tmp_path / "adapter", spread=0.002)
    _, lost = merged(with_peft(base, adapter), torch.bfloat16)
    assert lost > 0.05
