"""The backbone's own dropout: set where there is some, refused where there is none."""

from __future__ import annotations

import pytest
from support import tiny_models
from torch import nn

from ptune.errors import RecipeError
from ptune.training.layers.dropout import set_dropout


def test_every_dropout_of_a_model_is_set() -> None:
    model = tiny_models.model("gpt2")
    set_dropout(model, 0.25)
    assert {module.p for module in model.modules() if isinstance(module, nn.Dropout)} == {0.25}


@pytest.mark.parametrize("before", [0, 0.0])
def test_a_probability_of_a_whole_number_is_set(before: float) -> None:
    """As a config.json may write it."""
    model = tiny_models.model("llama", attention_dropout=before)
    set_dropout(model, 0.25)
    assert {layer.self_attn.attention_dropout for layer in model.model.layers} == {0.25}


def test_a_model_without_dropout_can_be_trained_without_it() -> None:
    """As models that learn from their own answers are: LFM2 names no dropout."""
    model = tiny_models.model("lfm2")
    set_dropout(model, 0.0)
    with pytest.raises(RecipeError, match="Lfm2ForCausalLM has no dropout of its own"):
        set_dropout(model, 0.1)
