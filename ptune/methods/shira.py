"""SHiRA (Bhardwaj et al. 2024, https://arxiv.org/abs/2406.13175) through peft."""

from __future__ import annotations

from pydantic import Field

from ptune.methods.peft_method import PeftMethod


class Shira(PeftMethod):
    """A sparse update: weights at random places of each layer."""

    r: int = Field(default=32, ge=1)
    """As many weights as LoRA of this rank has: r (inputs + outputs)."""
    random_seed: int = Field(default=0, ge=0)
    """Seed of the places."""

    peft_config = "peft:ShiraConfig"
    followed = False  # it searches for the places of its weights
    conv1d = False
