"""Prompt tuning (Lester et al. 2021, https://arxiv.org/abs/2104.08691) through peft."""

from __future__ import annotations

from typing import Literal

from ptune.methods.prompt_learning import PromptLearning


class PromptTuning(PromptLearning):
    """Trained embeddings of virtual tokens before every text."""

    prompt_tuning_init: Literal["RANDOM", "SAMPLE_VOCAB"] = "SAMPLE_VOCAB"
    """How they begin: as random vectors, or as embeddings of tokens drawn from the vocabulary."""

    peft_config = "peft:PromptTuningConfig"
