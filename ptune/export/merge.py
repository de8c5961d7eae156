"""Merging: adds the adapter's update to the dequantised weights in float32, without peft's merge.

peft's merge re-quantises a 4-bit base, which destroys small updates, and on the CPU it merges bytes that the
quantised kernel has repacked. Here the base is dequantised first; a low-precision copy is compared with the live
adapter like every other hop.
"""

from __future__ import annotations

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.utils.other import TrainableTokensWrapper
from torch import nn
from transformers.pytorch_utils import Conv1D

from ptune.errors import AdapterError


@torch.no_grad()
def merged(model: PeftModel, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, float]:
    """Merges the active LoRA of `model`, whose base holds plain float32 weights, and unwraps it.

    Returns the plain transformers model with weights of `dtype`, and the relative L2 error of the update's weights
    from rounding to `dtype` (0.0 = none).
    Raises: AdapterError if a layer cannot be merged.
    """
    adapter = model.active_adapter
    size, error = _new_rows(model, adapter, dtype)
    _untie(model, adapter)
    for name, layer in model.named_modules():
        if not isinstance(layer, LoraLayer) or adapter not in (*layer.lora_A, *layer.lora_embedding_A):
            continue
        linear = layer.get_base_layer()
        if isinstance(linear, nn.Embedding):
            update = layer.lora_embedding_B[adapter].double() @ layer.lora_embedding_A[adapter].double()
            update = update.T * layer.scaling[adapter]  # [vocab, width]
            lost = _add(linear, update, dtype)
            size, error = size + lost[0], error + lost[1]
            continue
        if not isinstance(linear, nn.Linear | Conv1D) or linear.weight.dtype != torch.float32:
            raise AdapterError(
                f"{name}: only plain float32 linear layers can be merged, not {type(linear).__name__}"
            )
        if layer.use_dora.get(adapter):
            raise AdapterError(f"{name}: DoRA cannot be merged yet")
        a, b = layer.lora_A[adapter].weight.double(), layer.lora_B[adapter].weight.double()
        update = (b @ a) * layer.scaling[adapter]  # [out, in]
        update = update.T if isinstance(linear, Conv1D) else update
        lost = _add(linear, update, dtype)
        size, error = size + lost[0], error + lost[1]
    plain = model.unload()
    if dtype != torch.float32:
        plain.to(dtype)
    return plain, (error / size) ** 0.5 if size else 0.0


def _add(
    layer: nn.Linear | Conv1D | nn.Embedding, update: torch.Tensor, dtype: torch.dtype
) -> tuple[float, float]:
    """Adds an update to a layer's weight, in a new parameter. Returns the squared norms of it and of its error from rounding."""
    before = layer.weight.double()
    after = (before + update).to(dtype)
    layer.weight = nn.Parameter(after.float(), requires_grad=False)
    lost = after.double() - before.to(dtype).double() - update
    return float(update.square().sum()), float(lost.square().sum())


def _untie(model: PeftModel, adapter: str) -> None:
    """Has a merged head and embedding saved apart where one of them alone is adapted, or both are by different updates."""
    base = model.get_base_model()
    ends = (base.get_input_embeddings(), base.get_output_embeddings())
    adapted = (isinstance(end, LoraLayer) and adapter in (*end.lora_A, *end.lora_embedding_A) for end in ends)
    if any(adapted):
        base.config.get_text_config().tie_word_embeddings = False
        base.config.tie_word_embeddings = False


def _new_rows(model: PeftModel, adapter: str, dtype: torch.dtype) -> tuple[float, float]:
    """Copies trained rows of single tokens into the embedding and the head.

    Returns the squared norms of their update, and of its error from rounding to `dtype`.
    """
    size, error = 0.0, 0.0
    for layer in model.modules():
        held = layer.token_adapter if isinstance(layer, TrainableTokensWrapper) else None
        if held is None or held.tied_adapter is not None or adapter not in held.token_indices:
            continue
        weight, tokens = held.get_base_layer().weight, held.token_indices[adapter]
        before, rows = weight[tokens].double(), held.trainable_tokens_delta[adapter].double()
        after, update = rows.to(dtype), rows - before
        size += float(update.square().sum())
        error += float((after.double() - before.to(dtype).double() - update).square().sum())
        weight[tokens] = after.float()  # in place, for a head that is tied to the embedding
    return size, error
