"""P-tuning (Liu et al. 2021, https://arxiv.org/abs/2103.10385) through peft."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ptune.methods.prompt_learning import PromptLearning


class PTuning(PromptLearning):
    """Virtual tokens before every text, whose embeddings a small network makes; the adapter holds what it makes."""

    encoder_reparameterization_type: Literal["MLP", "LSTM"] = "MLP"
    """The network."""
    encoder_hidden_size: int | None = Field(default=None, ge=1)
    """Its width; default: the model's."""
    encoder_num_layers: int = Field(default=2, ge=1)
    """Its layers; an MLP has two in any case."""
    encoder_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout in an LSTM."""

    peft_config = "peft:PromptEncoderConfig"
