"""Merging: adds the adapter's update to the dequantised weights in float32, without peft's merge.

peft's merge re-quantises a 4-bit base, which destroys small updates, and on the CPU it merges bytes that the
quantised kernel has repacked. Here the base is dequantised first; a low-precision copy is compared with the live
adapter like every other hop. Only LoRA's update is added here, in float64 and a layer at a time: what other methods make of
a layer's weights, peft knows.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from peft import PeftModel
from peft.tuners.lora import LoraConfig, LoraLayer
from peft.utils.other import ModulesToSaveWrapper, TrainableTokensWrapper
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ptune.backbone.float32 import Float32Linear, computed_weights
from ptune.backbone.packed_experts import make_plain, packed_experts
from ptune.errors import AdapterError, in_one_line

AT_ONCE = 1 << 22  # weights in float64


@torch.no_grad()
def merged(
    model: PeftModel, dtype: torch.dtype = torch.float32, folder: Path | None = None
) -> tuple[nn.Module, float]:
    """Merges the active LoRA of `model`, whose base computes in float32, and unwraps it, a layer at a time.

    folder: where the merged weights of linear layers are while the model lives: mapped from files without a name, so that
    memory need not hold them. None: in memory.
    Returns the plain transformers model with weights of `dtype`, and the relative L2 error of the update's weights
    from rounding to `dtype` (0.0 = none).
    Raises: AdapterError if a layer cannot be merged; OSError if the disk is full.
    """
    adapter = model.active_adapter
    size, error = _new_rows(model, adapter, dtype)
    _untie(model, adapter)
    for name, layer in model.named_modules():
        if not isinstance(layer, LoraLayer) or adapter not in (*layer.lora_A, *layer.lora_embedding_A):
            continue
        left, right = _update(name, layer, adapter)
        base = layer.get_base_layer()
        weight = _room(tuple(base.weight.shape), dtype, folder)
        lost = _add(base.weight, left, right, weight)
        size, error = size + lost[0], error + lost[1]
        layer.base_layer = _with_weight(base, weight)
    plain = model.unload()
    for name, layer in computed_weights(plain).items():  # those without an adapter
        weight = _room(tuple(layer.weight.shape), dtype, folder).copy_(layer.weight)
        plain.set_submodule(name.removesuffix(".weight"), _with_weight(layer, weight))
    _unpack_experts(plain)
    if dtype != torch.float32:
        plain.to(dtype)
    return plain, (error / size) ** 0.5 if size else 0.0


@torch.no_grad()
def merged_of_any(model: PeftModel, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, float]:
    """As `merged`, for every method that peft can merge; memory holds the weights twice.

    The base needs plain weights: see `with_plain_weights`.
    """
    _untie(model, model.active_adapter, apart=True)
    before = {name: one.clone() for name, one in _base_weights(model)} if dtype != torch.float32 else {}
    plain = merged_by_peft(model)
    if dtype == torch.float32:
        return plain, 0.0
    size = error = 0.0
    for name, one in plain.named_parameters():
        old = before.get(name)
        if old is not None and old.shape == one.shape and not torch.equal(old, one):
            update = one.double() - old.double()
            size += float(update.square().sum())
            error += float((one.to(dtype).double() - old.to(dtype).double() - update).square().sum())
    plain.to(dtype)
    return plain, (error / size) ** 0.5 if size else 0.0


def _base_weights(model: PeftModel) -> Iterator[tuple[str, torch.Tensor]]:
    """The base's own weights, by their names in the plain model."""
    for name, one in model.get_base_model().named_parameters():
        yield name.replace(".base_layer.", "."), one.detach()


def with_plain_weights(model: PreTrainedModel) -> None:
    """Gives layers that make their float32 weights when they run weights of their own; in place."""
    for name, layer in computed_weights(model).items():
        model.set_submodule(name.removesuffix(".weight"), _with_weight(layer, layer.weight.clone()))
    _unpack_experts(model)


def _unpack_experts(model: nn.Module) -> None:
    """The same of experts, in memory."""
    for module in {id(module): module for module, _ in packed_experts(model).values()}.values():
        make_plain(module)


def merged_by_peft(model: PeftModel) -> PreTrainedModel:
    """Merges the active adapter, a head with it, and returns the plain model; `model` is used up.

    Raises: AdapterError where peft cannot merge.
    """
    base, adapter = model.get_base_model(), str(model.active_adapter)
    # Most of peft's methods look for a weight of the head itself, which a head of several layers lacks.
    for name, module in list(base.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):
            base.set_submodule(name, module.modules_to_save[adapter])
    try:
        plain: PreTrainedModel = model.merge_and_unload()
    except (RuntimeError, NotImplementedError, AttributeError, ValueError) as error:
        kind = model.peft_config[adapter].peft_type.value
        reason = in_one_line(error).rstrip(".")
        raise AdapterError(f"peft cannot merge an adapter of peft_type {kind}: {reason}") from error
    return plain


def mergeable_here(config: object) -> bool:
    """Whether an adapter is nothing but LoRA's update of single layers, which `merged` adds."""
    plain = isinstance(config, LoraConfig) and config.peft_type == "LORA"
    return plain and not any(getattr(config, name) for name in ("use_dora", "target_parameters", "lora_bias"))


def _update(name: str, layer: LoraLayer, adapter: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Two matrices of float64 whose product is a layer's update, of the shape of its weight.

    Raises: AdapterError if the layer cannot be merged.
    """
    base, scale = layer.get_base_layer(), layer.scaling[adapter]
    if isinstance(base, nn.Embedding):  # [vocab, width]
        up, down = layer.lora_embedding_A[adapter].T, layer.lora_embedding_B[adapter].T
        return up.double() * scale, down.double()
    if not isinstance(base, nn.Linear | Conv1D) or base.weight.dtype != torch.float32:
        raise AdapterError(
            f"{name}: only plain float32 linear layers can be merged, not {type(base).__name__}"
        )
    if layer.use_dora.get(adapter):
        raise AdapterError(f"{name}: DoRA cannot be merged yet")
    a, b = layer.lora_A[adapter].weight.double(), layer.lora_B[adapter].weight.double()
    return (a.T * scale, b.T) if isinstance(base, Conv1D) else (b * scale, a)


def _add(
    before: torch.Tensor, left: torch.Tensor, right: torch.Tensor, after: torch.Tensor
) -> tuple[float, float]:
    """Writes a weight and its update, rounded, to `after`, some rows at a time.

    Returns the squared norms of the update and of its error from rounding.
    """
    size = error = 0.0
    rows = max(1, AT_ONCE // before.shape[1])
    for old, new, part in zip(before.split(rows), after.split(rows), left.split(rows), strict=True):
        update = part @ right
        new.copy_(old.double() + update)
        size += float(update.square().sum())
        error += float((new.double() - old.to(after.dtype).double() - update).square().sum())
    return size, error


def _room(shape: tuple[int, ...], dtype: torch.dtype, folder: Path | None) -> torch.Tensor:
    """A tensor to be written; see `merged`."""
    if folder is None:
        return torch.empty(shape, dtype=dtype)
    count = math.prod(shape)
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        # Room that is found missing only when a mapped page is written would kill the process.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, count * dtype.itemsize)
        return torch.from_file(file.name, shared=True, size=count, dtype=dtype).view(shape)


def _with_weight(layer: nn.Module, weight: torch.Tensor) -> nn.Module:
    """A layer with another weight: the same, or a plain one where its weight was made anew whenever it ran."""
    plain = layer
    if isinstance(layer, Float32Linear):
        plain = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
        plain.bias = layer.bias
    plain.weight = nn.Parameter(weight, requires_grad=False)
    return plain


def _untie(model: PeftModel, adapter: str, *, apart: bool = False) -> None:
    """Has a merged head and embedding saved apart where one of them alone is adapted, or both are by different updates.

    apart: gives them weights of their own, for peft, which merges in place.
    """
    base = model.get_base_model()
    ends = (base.get_input_embeddings(), base.get_output_embeddings())
    adapted = (isinstance(end, LoraLayer) and adapter in (*end.lora_A, *end.lora_embedding_A) for end in ends)
    if any(adapted):
        base.config.get_text_config().tie_word_embeddings = False
        base.config.tie_word_embeddings = False
        embedding, head = (end.get_base_layer() if isinstance(end, LoraLayer) else end for end in ends)
        if apart and head.weight is embedding.weight:
            head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)


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
