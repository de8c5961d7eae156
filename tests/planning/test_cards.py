"""Which sizes fit on which cards."""

from __future__ import annotations

from typing import Literal

import pytest
from transformers import LlamaConfig

from ptune.config.recipe import Backbone, Recipe, Train
from ptune.methods.lora import Lora
from ptune.planning import cards
from ptune.progress import Progress

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


def test_the_table_says_how_much_is_left_from_its_first_way_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model takes up to half a minute: it counts ways, not models, and those that it need not try."""
    done: list[float] = []

    class Counted(Progress):
        def advance(self, count: int = 1, **said: str | None) -> None:
            super().advance(count)
            done.append(self.done / self.total)

    small, large = cards.Line(1e9, 1e5), cards.Line(1e12, 1e9)
    monkeypatch.setattr(cards, "Progress", Counted)
    monkeypatch.setattr(
        cards, "line", lambda config, *way: small if config.num_hidden_layers == 16 else large
    )
    shown = cards.table(("1B (Llama 3.2)", "70B (Llama 3.1)"))
    assert shown.row_count == 2
    assert done == [1 / 8, 4 / 8, 5 / 8, 6 / 8, 7 / 8, 1, 1]
