"""FourierFT (Gao et al. 2024, https://arxiv.org/abs/2405.03003) through peft."""

from __future__ import annotations

from pydantic import Field

from ptune.methods.peft_method import PeftMethod


class FourierFt(PeftMethod):
    """A few trained coefficients of the Fourier transform of each layer's update."""

    n_frequency: int = Field(default=1000, ge=1)
    """Coefficients of a layer; at most as many as it has weights."""
    scaling: float = Field(default=150.0, gt=0)
    """The update is scaled by this."""
    random_loc_seed: int = 777
    """Seed of their places."""

    peft_config = "peft:FourierFTConfig"
    quantized = ("int8", "nf4")
