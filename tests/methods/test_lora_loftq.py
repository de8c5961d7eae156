"""A LoRA that begins as what quantising has lost: PEFT's decomposition, nearer to the model before, and a plain LoRA when saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.utils.loftq_utils import _low_rank_decomposition
from support import tiny_models
from support.every_method import begun, logits

from ptune.backbone.quantize import Quantization, quantize
from ptune.errors import RecipeError
from ptune.methods.lora import Lora
from ptune.methods.lora_loftq import begin_loftq


def quantised(kind: Quantization) -> Any:
    base = tiny_models.model("llama")
    quantize(base, kind)
    return base.requires_grad_(False)


@pytest.mark.parametrize("kind", ["int8", "nf4"])
@pytest.mark.parametrize("rslora", [False, True])
def test_it_begins_as_what_was_lost(kind: Quantization, rslora: bool, tmp_path: Path) -> None:
    method = Lora(r=8, alpha=5, rslora=rslora, init="loftq")
    model = begun(method, quantised(kind), "llama")
    original = tiny_models.model("llama")
    begin_loftq(model, original)
    layer = model.base_model.model.model.layers[0].mlp.down_proj
    plain = original.model.layers[0].mlp.down_proj.weight.detach()
    lost = plain - layer.base_layer.dequantised()
    parts = _low_rank_decomposition(lost, reduced_rank=8)
    update = layer.scaling["default"] * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    assert (update - parts["L"] @ parts["R"]).abs().max() < 1e-4 * lost.abs().max()
    before, wanted, now = (logits(one, "llama") for one in (quantised(kind), original, model))
    assert (now - wanted).norm() < 0.9 * (before - wanted).norm()
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(quantised(kind), str(tmp_path))
    assert torch.equal(logits(again, "llama"), now)


def test_a_rank_that_the_weights_do_not_have_is_told() -> None:
    model = begun(Lora(r=40, init="loftq"), quantised("nf4"), "llama")
    with pytest.raises(RecipeError, match="'loftq': rank 40 is more than the 32 that the weights of"):
        begin_loftq(model, tiny_models.model("llama"))
