"""Ranks and scales that patterns give are in the file those of the training, which peft's own patterns are not."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.utils.other import get_pattern_key
from pydantic import ValidationError
from support import tiny_models
from torch import nn

from ptune.formats.name_patterns import in_any_order
from ptune.methods.lora import Lora

PATTERNS = ("q_proj", "layers.1.self_attn.q_proj", ".*proj", "k_proj|q_proj", "layers.1.*")
NAMES = ("model.layers.1.self_attn.q_proj", "model.layers.11.self_attn.q_proj", "model.layers.2.mlp.up_proj")


def settings_of(model: nn.Module) -> dict[str, tuple[int, float]]:
    """Rank and scale of each layer of an adapter."""
    layers = {name: one for name, one in model.named_modules() if isinstance(one, LoraLayer)}
    return {name: (one.r["default"], one.scaling["default"]) for name, one in layers.items()}


@pytest.mark.parametrize(
    "fields",
    [
        {"alpha_pattern": {"q_proj": 7.5, "layers.1.self_attn.q_proj": 64}},
        {"rank_pattern": {"self_attn.q_proj": 2, "layers.1.self_attn.q_proj": 4}},
        {"rank_pattern": {"q_proj": 3, ".*proj": 5}, "alpha_pattern": {"q_proj": 9}, "rslora": True},
    ],
    ids=["alphas", "ranks", "both"],
)
def test_what_overlapping_patterns_give_comes_back_from_the_file(
    fields: dict[str, Any], tmp_path: Path
) -> None:
    trained = Lora(r=8, **fields).apply(tiny_models.model("llama")).eval()
    for name, factor in trained.named_parameters():
        if ".lora_B." in name:
            nn.init.normal_(factor)
    trained.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(tiny_models.model("llama"), str(tmp_path)).eval()
    assert settings_of(again) == settings_of(trained)
    ids = torch.arange(8)[None]
    with torch.no_grad():
        assert torch.equal(again(ids).logits, trained(ids).logits)


def test_the_first_pattern_that_matches_counts_as_the_recipe_has_them() -> None:
    model = Lora(r=8, rank_pattern={"q_proj": 2, "layers.1.self_attn.q_proj": 4}).apply(
        tiny_models.model("llama")
    )
    ranks = {name: rank for name, (rank, _) in settings_of(model).items()}
    assert {rank for name, rank in ranks.items() if name.endswith("q_proj")} == {2}
    assert {rank for name, rank in ranks.items() if not name.endswith("q_proj")} == {8}


@pytest.mark.parametrize("seed", range(20))
def test_patterns_in_any_order_say_what_peft_reads_in_the_first(seed: int) -> None:
    chance = random.Random(seed)
    given = {pattern: chance.randint(1, 9) for pattern in chance.sample(PATTERNS, 3)}
    wanted = {name: given.get(get_pattern_key(given, name)) for name in NAMES}
    found = in_any_order(given, NAMES)
    shuffled = dict(chance.sample(list(found.items()), len(found)))
    assert {name: shuffled.get(get_pattern_key(shuffled, name)) for name in NAMES} == wanted


def test_patterns_that_agree_stay_as_they_are() -> None:
    given = {"q_proj": 2, "up_proj": 7, "self_attn.q_proj": 2}
    assert in_any_order(given, NAMES) == given


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"rank_pattern": {"(": 3}}, "rank_pattern: '\\(' is not a valid pattern"),
        ({"alpha_pattern": {"q_proj": 0}}, "alpha_pattern: 'q_proj' is 0"),
        ({"alpha_pattern": {"q_proj": -1}}, "alpha_pattern: 'q_proj' is -1"),
    ],
)
def test_patterns_that_cannot_be_trained_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Lora(**fields)
