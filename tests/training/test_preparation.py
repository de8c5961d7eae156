"""Layers that compute their activations again, by whichever name transformers has for it."""

from __future__ import annotations

import warnings
from typing import Any, cast

from support import tiny_models
from transformers import PreTrainedModel

from ptune.training.preparation import checkpoint_layers


class OlderModel:
    """As transformers was before it renamed the method."""

    def __init__(self) -> None:
        self.given: list[dict[str, Any]] = []

    def gradient_checkpointing_enable(self, options: dict[str, Any]) -> None:
        self.given.append(options)


def test_every_layer_is_checkpointed_and_transformers_has_nothing_to_say() -> None:
    model = tiny_models.model("llama")
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        checkpoint_layers(model)
    assert [layer.gradient_checkpointing for layer in model.model.layers] == [True, True]


def test_the_older_name() -> None:
    model = OlderModel()
    checkpoint_layers(cast(PreTrainedModel, model))
    assert [options["use_reentrant"] for options in model.given] == [False]
