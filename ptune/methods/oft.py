"""OFT (Qiu et al. 2023, https://arxiv.org/abs/2306.07280), in the form of OFTv2 (Qiu et al. 2025, https://arxiv.org/abs/2506.19847) through peft."""

from __future__ import annotations

from pydantic import Field

from ptune.methods.peft_method import PeftMethod


class Oft(PeftMethod):
    """Rotations of each layer's input, block by block."""

    oft_block_size: int = Field(default=32, ge=2)
    """Size of a block; the inputs of all adapted layers must be divisible by it."""
    module_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the blocks that a pass leaves as they are."""
    coft: bool = False
    """Bound how far a block may turn."""
    eps: float = Field(default=6e-5, gt=0)
    """That bound."""
    block_share: bool = False
    """One rotation for all blocks of a layer."""
    use_cayley_neumann: bool = True
    """Compute rotations by a series of five terms, which is faster and not exact."""

    peft_config = "peft:OFTConfig"
    quantized = ("int8", "nf4")
    conv1d = False
