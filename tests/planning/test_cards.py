"""Which sizes fit on which cards."""

from __future__ import annotations

from typing import Literal

import pytest
from transformers import LlamaConfig

from ptune.config.recipe import Backbone, Recipe, Train
from ptune.methods.lora import Lora
from ptune.planning import cards

CONFIG = LlamaConfig(
    num_hidden_layers=6, hidden_size=64, intermediate_size=128, num_attention_heads=4, vocab_size=500
)


@pytest.mark.parametrize(("base", "checkpointing"), [("none", False), ("nf4", True)])
def test_deep_models_are_extrapolated_from_shallow_ones(
    base: Literal["none", "nf4"], checkpointing: bool
) -> None:
    recipe = Recipe(
        backbone=Backbone(quantize=base, dtype="bfloat16"),
        method=Lora(r=4),
        train=Train(gradient_checkpointing=checkpointing),
    )
    whole = cards._needed(CONFIG, recipe, 1024)
    assert cards.deep_bytes(CONFIG, recipe, 1024) == pytest.approx(whole, rel=0.001)


def test_a_tiny_model_fits_everywhere_in_the_cheapest_way() -> None:
    assert all(cell.startswith("bf16 ") and "gc" not in cell for cell in cards.cells(CONFIG))


def test_a_line_gives_whole_examples() -> None:
    line = cards.Line(fixed_bytes=1e9, a_token_bytes=1e6)
    assert line.tokens(10**9 + 2500 * 10**6) == 2 * cards.LENGTH
    assert line.tokens(10**9) == 0


def test_shapes_have_the_sizes_they_are_named_after() -> None:
    for name in cards.SHAPES:
        config, size = cards.shape(name), float(name.split("B")[0])
        inner, hidden = config.intermediate_size, config.hidden_size
        attention = (
            hidden * config.head_dim * (2 * config.num_attention_heads + 2 * config.num_key_value_heads)
        )
        ends = config.vocab_size * hidden * (1 if config.tie_word_embeddings else 2)
        billions = (config.num_hidden_layers * (attention + 3 * hidden * inner) + ends) / 1e9
        assert billions == pytest.approx(size, rel=0.25), name
