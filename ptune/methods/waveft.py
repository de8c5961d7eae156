"""WaveFT (Bilican et al. 2025, https://arxiv.org/abs/2505.12532) through peft."""

from __future__ import annotations

from pydantic import Field

from ptune.methods.peft_method import PeftMethod


class WaveFt(PeftMethod):
    """A few trained coefficients of the wavelet transform of each layer's update."""

    n_frequency: int = Field(default=2592, ge=1)
    """Coefficients of a layer; at most as many as it has weights."""
    scaling: float = Field(default=25.0, gt=0)
    """The update is scaled by this."""
    random_loc_seed: int = 777
    """Seed of their places."""

    peft_config = "peft:WaveFTConfig"
    quantized = ("int8", "nf4")
    followed = False  # it searches for the places of its weights
