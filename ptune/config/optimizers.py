"""The optimisers, one row for each: what makes it, what it takes, and its paper. Torch-free.

All of them are other packages' code. What an optimiser has no use for is refused rather than ignored.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

Name: TypeAlias = Literal[
    "adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit", "adafactor", "lion", "lion_8bit", "muon"
]


@dataclass(frozen=True)
class Optimizer:
    """An optimiser. Its weight decay is decoupled: weights shrink by learning rate times decay at each step."""

    made_by: str  # "module:class", called with parameter groups and `lr`
    source: str  # paper, year, address
    state_bytes: str  # of a trained weight, beside its gradient's 4 bytes; for the documentation
    betas: bool = False  # whether it has two decays of running averages, `train.betas`
    eps: bool = False  # whether it has a term in the denominator, `train.eps`
    matrices_alone: bool = False  # whether it can train nothing else
    paged: bool = False  # whether its state moves between a GPU and main memory, which needs a GPU
    fixed: dict[str, object] = field(default_factory=dict)  # its other arguments


_ADAMW = "AdamW (Loshchilov and Hutter 2017, https://arxiv.org/abs/1711.05101)"
_8_BIT = (
    "8-bit Optimizers via Block-wise Quantization (Dettmers et al. 2021, https://arxiv.org/abs/2110.02861)"
)
_PAGED = "QLoRA (Dettmers et al. 2023, https://arxiv.org/abs/2305.14314), section 3"
_LION = "Symbolic Discovery of Optimization Algorithms (Chen et al. 2023, https://arxiv.org/abs/2302.06675)"

OPTIMIZERS: dict[Name, Optimizer] = {
    "adamw": Optimizer("torch.optim:AdamW", _ADAMW, "8", betas=True, eps=True),
    # bitsandbytes keeps matrices of fewer than 4,096 weights in 32 bits.
    "adamw_8bit": Optimizer("bitsandbytes.optim:AdamW8bit", _8_BIT, "2", betas=True, eps=True),
    "paged_adamw": Optimizer(
        "bitsandbytes.optim:PagedAdamW32bit", _PAGED, "8", betas=True, eps=True, paged=True
    ),
    "paged_adamw_8bit": Optimizer(
        "bitsandbytes.optim:PagedAdamW8bit", _PAGED, "2", betas=True, eps=True, paged=True
    ),
    # Without the two scalings by which it chooses learning rates itself: factors of LoRA begin at 0, and so would its steps.
    "adafactor": Optimizer(
        "transformers.optimization:Adafactor",
        "Adafactor (Shazeer and Stern 2018, https://arxiv.org/abs/1804.04235)",
        "almost 0",
        fixed={"scale_parameter": False, "relative_step": False},
    ),
    "lion": Optimizer("bitsandbytes.optim:Lion32bit", _LION, "4", betas=True),
    "lion_8bit": Optimizer("bitsandbytes.optim:Lion8bit", _LION, "1", betas=True),
    # Scaled to steps as long as AdamW's, so that its learning rates do.
    "muon": Optimizer(
        "torch.optim:Muon",
        "Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon), scaled as in Liu et al. 2025"
        " (https://arxiv.org/abs/2502.16982)",
        "4",
        eps=True,
        matrices_alone=True,
        fixed={"adjust_lr_fn": "match_rms_adamw"},
    ),
}
assert tuple(OPTIMIZERS) == get_args(Name)


def given(name: Name, betas: tuple[float, float] | None, eps: float | None) -> dict[str, object]:
    """The arguments of an optimiser besides groups and learning rate. Raises: ValueError where it does not take one."""
    row = OPTIMIZERS[name]
    for field_name, value, taken in (("betas", betas, row.betas), ("eps", eps, row.eps)):
        if value is not None and not taken:
            others = ", ".join(other for other, one in OPTIMIZERS.items() if getattr(one, field_name))
            raise ValueError(f"train.optimizer {name!r} has no {field_name}; these have: {others}")
    own = {"betas": betas, "eps": eps}
    return {**row.fixed, **{key: value for key, value in own.items() if value is not None}}
