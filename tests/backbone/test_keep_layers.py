"""A model without some of its layers is the model that transformers makes of the others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from pydantic import ValidationError
from support import tiny_models

from ptune.backbone.identity import weights_hash
from ptune.backbone.load import load, load_codec
from ptune.config.classification import TextClassification
from ptune.config.recipe import Backbone, Recipe, Train
from ptune.errors import BackboneError
from ptune.methods.lora import Lora
from ptune.planning.files import describe

IDS = torch.tensor([[1, 9, 30, 7, 52, 11, 60, 8, 9, 31, 7, 52, 12]])


@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen3", "gpt2", "opt"])
def test_it_computes_what_a_model_of_those_layers_does(family: str, tmp_path: Path) -> None:
    count = "n_layer" if family == "gpt2" else "num_hidden_layers"
    folder = tiny_models.build(tmp_path / "model", family, **{count: 5})
    if family == "gemma3":  # whose layers differ: the kept ones keep their kind of attention
        kinds = transformers.AutoConfig.from_pretrained(folder).layer_types
        assert len(kinds) == 5
    found = load(Backbone(model=str(folder), keep_layers=(0, 3, 4), dtype="float32"))
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder)
    blocks = next(one for one in plain.modules() if isinstance(one, torch.nn.ModuleList) and len(one) == 5)
    del blocks[1], blocks[1]
    with torch.no_grad():
        expected = plain(IDS, use_cache=False).logits
        assert torch.equal(found.model(IDS, use_cache=False).logits, expected)
        cached = found.model(IDS, use_cache=True).logits  # each layer has a place of its own in the cache
    torch.testing.assert_close(cached, expected)
    found.model.save_pretrained(tmp_path / "saved")
    saved = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert saved.config.num_hidden_layers == 3
    assert weights_hash(saved) == found.identity.hash
    with torch.no_grad():
        torch.testing.assert_close(saved(IDS).logits, expected)


def test_each_choice_of_layers_is_a_base_of_its_own(tmp_path: Path) -> None:
    folder = str(tiny_models.build(tmp_path / "model", "llama", num_hidden_layers=4))
    hashes = {
        load(Backbone(model=folder, keep_layers=keep)).identity.hash
        for keep in ((), (0, 1, 2, 3), (0, 1), (0, 2))
    }
    assert len(hashes) == 3  # all layers are all layers
    described = describe(Backbone(model=folder, keep_layers=(0, 2))).config
    assert described.num_hidden_layers == 2
    assert load_codec(Backbone(model=folder, keep_layers=(0, 2))).context == tiny_models.CONTEXT


def test_layers_that_there_are_not_are_refused(tmp_path: Path) -> None:
    folder = str(tiny_models.build(tmp_path / "model", "llama"))
    with pytest.raises(BackboneError, match="there is no layer 2; llama has 2 here, from 0 to 1"):
        load(Backbone(model=folder, keep_layers=(0, 2)))
    for wrong in ((1, 0), (0, 0), (-1, 0)):
        with pytest.raises(ValidationError, match="in ascending order"):
            Backbone(keep_layers=wrong)


def test_what_cannot_leave_layers_out_says_so() -> None:
    for backbone in (Backbone(keep_layers=(0,), quantize="nf4"), Backbone(keep_layers=(0,), stream=True)):
        with pytest.raises(ValidationError, match="keep_layers is for causal models"):
            Recipe(backbone=backbone, train=Train(gradient_checkpointing=True), method=Lora())
    with pytest.raises(ValidationError, match="keep_layers is for causal models"):
        Recipe(backbone=Backbone(keep_layers=(0,)), task=TextClassification())
