"""Which sizes fit on which cards."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig

from ptune.config.recipe import Backbone, Recipe, Train
from ptune.methods.lora import Lora
from ptune.planning import cards
from ptune.planning.depth import in_shapes
from ptune.progress import Progress

CONFIG = LlamaConfig(
    num_hidden_layers=6, hidden_size=64, intermediate_size=128, num_attention_heads=4, vocab_size=500
)


def test_memory_is_the_higher_of_two_lines() -> None:
    """Short rows are fullest at the loss, long ones at a layer: neither length says what the other needs."""
    short, long = cards.lines(shape_of_one_layer_and_many_words(), "bf16", checkpointing=True)
    recipe = Recipe(
        backbone=Backbone(dtype="bfloat16"), method=Lora(r=16), train=Train(gradient_checkpointing=True)
    )
    model = in_shapes(shape_of_one_layer_and_many_words(), recipe, torch.bfloat16, "cuda")
    assert short.a_token_bytes < 0.8 * long.a_token_bytes
    for tokens in (1024, 4096, 16384):
        real = cards.needed_bytes(model, recipe, tokens)
        planned = max(line.fixed_bytes + tokens * line.a_token_bytes for line in (short, long))
        assert planned == pytest.approx(real, rel=0.02), tokens


def shape_of_one_layer_and_many_words() -> LlamaConfig:
    return LlamaConfig(
        num_hidden_layers=1,
        hidden_size=64,
        intermediate_size=16384,
        num_attention_heads=4,
        vocab_size=130_000,
    )


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
        cards, "lines", lambda config, *way: [small if config.num_hidden_layers == 16 else large]
    )
    shown = cards.table(("1B (Llama 3.2)", "70B (Llama 3.1)"))
    assert shown.row_count == 2
    assert done == [1 / 8, 4 / 8, 5 / 8, 6 / 8, 7 / 8, 1, 1]
