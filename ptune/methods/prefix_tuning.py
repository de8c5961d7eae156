"""Prefix tuning (Li and Liang 2021, https://arxiv.org/abs/2101.00190) through peft."""

from __future__ import annotations

from pydantic import Field

from ptune.methods.prompt_learning import PromptLearning


class PrefixTuning(PromptLearning):
    """Trained keys and values of virtual tokens in every layer's attention."""

    prefix_projection: bool = False
    """Have a small network make them, as the paper does; the adapter holds what it makes."""
    encoder_hidden_size: int | None = Field(default=None, ge=1)
    """That network's width; default: the model's."""

    peft_config = "peft:PrefixTuningConfig"
