"""AdaLoRA (Zhang et al. 2023, https://arxiv.org/abs/2303.10512) through peft."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from ptune.errors import RecipeError
from ptune.methods.peft_method import METHOD_STATE, PeftMethod

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from torch import nn
    from transformers import PreTrainedModel


class AdaLora(PeftMethod):
    """Low-rank adapters in the form of a singular value decomposition, whose ranks are shared out by importance as training goes on."""

    init_r: int = Field(default=12, ge=1)
    """Rank of every update when training begins."""
    target_r: int = Field(default=8, ge=1)
    """Mean rank of the updates when the ranks have been shared out."""
    alpha: float = Field(default=32.0, gt=0)
    """The update is scaled by alpha / init_r."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout before the adapter's first matrix."""
    tinit: int | None = Field(default=None, ge=0)
    """Steps with all ranks; default: a tenth of all."""
    tfinal: int | None = Field(default=None, ge=0)
    """Steps at the end in which ranks stay as they are; default: half of all."""
    delta_t: int = Field(default=10, ge=1)
    """Steps between two sharings."""
    beta1: float = Field(default=0.85, gt=0, lt=1)
    """Smoothing of the weights' sensitivity."""
    beta2: float = Field(default=0.85, gt=0, lt=1)
    """Smoothing of its uncertainty."""
    orth_reg_weight: float = Field(default=0.5, ge=0)
    """Weight of the term of the loss that keeps the factors orthogonal."""

    peft_config = "peft:AdaLoraConfig"
    peft_names: ClassVar = {"alpha": "lora_alpha", "dropout": "lora_dropout", "delta_t": "deltaT"}
    folds = True
    quantized = ("int8", "nf4")
    convolutions = True

    @model_validator(mode="after")
    def _ranks_are_given_up(self) -> AdaLora:
        if self.target_r >= self.init_r:
            raise ValueError(
                f"target_r is {self.target_r} and init_r is {self.init_r}: it must be less, or nothing is shared out"
            )
        return self

    def fields(self) -> dict[str, Any]:
        """As `PeftMethod.fields`; the steps are filled in by `begin`."""
        steps = {"tinit", "tfinal"}
        return {
            **{name: value for name, value in super().fields().items() if name not in steps},
            "total_step": 1,
        }

    def apply(
        self, model: PreTrainedModel, new_tokens: Sequence[int] = (), head: Sequence[str] = ()
    ) -> nn.Module:
        """As `PeftMethod.apply`. What the sharing remembers lies in buffers, so that checkpoints hold it."""
        from torch import nn

        adapted: Any = super().apply(model, new_tokens, head)
        for name, one in adapted.named_parameters():
            if ".ranknum." in name:  # peft trains them beside a 16-bit base, and never saves them
                one.requires_grad_(False)
        memory = nn.Module()
        for number, (name, factor) in enumerate(_factors(adapted)):
            for kind in ("sensitivity", "uncertainty"):
                memory.register_buffer(f"{kind}_{number}", factor.new_zeros(factor.shape))
            if ".lora_E." in name:
                memory.register_buffer(f"kept_{number}", factor.new_ones(factor.shape))
        setattr(adapted, METHOD_STATE, memory)
        return adapted

    def begin(self, model: PeftModel, steps: int) -> None:
        """As `PeftMethod.begin`. Raises: RecipeError if no step is left in which ranks are shared out."""
        tinit = steps // 10 if self.tinit is None else self.tinit
        tfinal = (steps - 1) // 2 if self.tfinal is None else self.tfinal
        if steps - tfinal < max(2, tinit + 1):  # the first of them measures importance
            raise RecipeError(
                f"method.tinit {tinit} and method.tfinal {tfinal} leave none of the {steps} steps in which ranks are"
                " shared out: make them fewer, or train longer"
            )
        config: Any = model.peft_config[str(model.active_adapter)]
        config.total_step, config.tinit, config.tfinal = steps, tinit, tfinal

    def after_update(self, model: PeftModel, step: int, steps: int) -> None:
        """Updates the importance of the singular values, and masks those that the budget has no room for."""
        tuner: Any = model.base_model
        allocator, memory, factors = tuner.rankallocator, getattr(model, METHOD_STATE), _factors(model)
        config: Any = model.peft_config[str(model.active_adapter)]
        # Named as in the transformers model, which is how peft's allocator knows them.
        names = [name.removeprefix("base_model.model.") for name, _ in factors]
        for number, name in enumerate(names):
            allocator.ipt[name] = None  # known, and computed anew at each step
            allocator.exp_avg_ipt[name] = getattr(memory, f"sensitivity_{number}")
            allocator.exp_avg_unc[name] = getattr(memory, f"uncertainty_{number}")
        kept = {name: number for number, name in enumerate(names) if ".lora_E." in name}
        config.rank_pattern = {
            name: getattr(memory, f"kept_{number}").flatten().bool().tolist() for name, number in kept.items()
        }
        sensitivity, uncertainty = allocator.exp_avg_ipt, allocator.exp_avg_unc
        tuner.update_and_allocate(step)
        for number, name in enumerate(names):
            getattr(memory, f"sensitivity_{number}").copy_(sensitivity[name])
            getattr(memory, f"uncertainty_{number}").copy_(uncertainty[name])
        for name, number in kept.items():
            mask: torch.Tensor = getattr(memory, f"kept_{number}")
            mask.copy_(mask.new_tensor(config.rank_pattern[name]).view(mask.shape))
        # What is saved keeps its masked values, which are zeros: the weights kept may be those of an earlier step.
        config.rank_pattern = None

    def penalty(self, model: PeftModel) -> torch.Tensor:
        """How far the factors are from orthogonal, as in peft's forward pass, which a loss of our own does not run."""
        import torch

        sides = [(name, factor) for name, factor in _factors(model) if ".lora_E." not in name]
        far = [
            torch.linalg.matrix_norm(product - torch.eye(len(product), device=product.device))
            for name, factor in sides
            for product in [factor @ factor.T if ".lora_A." in name else factor.T @ factor]
        ]
        return torch.stack(far).mean() * self.orth_reg_weight


def _factors(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The factors A, E and B of all layers, by their names in the model."""
    parts = (".lora_A.", ".lora_E.", ".lora_B.")
    return [(name, one) for name, one in model.named_parameters() if any(part in name for part in parts)]
