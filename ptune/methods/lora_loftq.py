"""LoftQ (Li et al. 2023, https://arxiv.org/abs/2310.08659): a LoRA that begins as what quantising a layer's weights has lost.

B A begins as the r largest parts of (W - Q) / scale, with Q the quantised weights. The paper then quantises W - B A anew, and so on:
that base would be nobody else's. Here, as in PEFT's `replace_lora_weights_loftq`, the base stays as everybody quantises it, and the
first of these steps is the only one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ptune.errors import RecipeError
from ptune.methods.lora_init import weight_of

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import nn


def begin_loftq(model: PeftModel, original: nn.Module) -> None:
    """Sets the factors of a PeftModel. original: the base before it was quantised. Raises: RecipeError."""
    import torch
    from peft.tuners.lora import LoraLayer

    for name, layer in model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        held: Any = layer.get_base_layer()
        plain = weight_of(name, original.get_submodule(name.removeprefix("base_model.model.")))
        lost = plain - weight_of(name, held).to(plain.device)
        with torch.no_grad():
            left, values, right = torch.linalg.svd(lost, full_matrices=False)
            for adapter, rank in layer.r.items():
                if rank > len(values):
                    raise RecipeError(
                        f"method.init 'loftq': rank {rank} is more than the {len(values)} that the weights of {name} have"
                    )
                root = (values[:rank] / layer.scaling[adapter]).sqrt()
                layer.lora_A[adapter].weight.copy_(root[:, None] * right[:rank])
                layer.lora_B[adapter].weight.copy_(left[:, :rank] * root)
