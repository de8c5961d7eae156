"""Predicts the memory of a recipe's training before the first step, without reading a weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch

from ptune.backbone.load import training_dtype
from ptune.config.recipe import Recipe
from ptune.methods.lora import Lora
from ptune.planning import heap_use
from ptune.planning.files import Described, describe
from ptune.planning.memory_ledger import Ledger
from ptune.planning.skeleton import Skeleton, skeleton
from ptune.planning.step import Followed, Part, Work, follow
from ptune.training.packing import bins

Device: TypeAlias = Literal["cpu", "cuda"]
MIB = 2**20

# Memory of code and objects created while a model is loaded, trained and saved. Measured on two models that are not in the
# benchmark (Llama-shaped with 117M and Qwen3-shaped with 243M parameters), the same for both; 16 MiB is the plan itself.
_RUNTIME = {"loading": 56 * MIB, "step": 68 * MIB, "saving": 68 * MIB}
_IMPORTS = 405 * MIB  # VmHWM after `import ptune.fine_tune`
_COMPARED = (
    10 * 2**20 * 8
)  # reading back compares 2^20 logits (ptune.training.reload) in float64, some ten copies at once
# Not measured on a GPU. The size of the context is what NVIDIA's drivers are known to use on recent cards.
_CONTEXT = 500 * MIB
_CUDA_SLACK = 1.05  # blocks are rounded up, and cuBLAS has a workspace


def predict(
    recipe: Recipe,
    lengths: Sequence[int] | None = None,
    *,
    validation: Sequence[int] | None = None,
    device: Device | None = None,
    described: Described | None = None,
) -> Ledger:
    """The memory ledger of training `recipe`.

    lengths: of the training examples, in tokens. None: not known yet; rows are assumed to be full.
    validation: lengths of the validation examples; None: assumed as long as the training examples.
    device: where training will run; None = the GPU if there is one.
    described: the result of `describe(recipe.backbone)`, to avoid reading it again.

    Raises: BackboneError if the model cannot be found or read; RecipeError if the method does not fit it.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    described = described or describe(recipe.backbone)
    model = skeleton(described.config, recipe, planned_dtype(recipe, device))
    return predict_on(model, recipe, lengths, validation, device, described)


def predict_on(
    model: Skeleton,
    recipe: Recipe,
    lengths: Sequence[int] | None,
    validation: Sequence[int] | None,
    device: Device,
    described: Described,
) -> Ledger:
    """`predict` on a skeleton that was built for this recipe, or for one that differs only in its rows."""
    work = largest(recipe, lengths, validation, packed=model.packed)
    followed = follow(model, recipe.train, work, foreach=device == "cuda")
    return ledger_of(followed, model, recipe, described, device, sum(work.row))


def planned_dtype(recipe: Recipe, device: Device) -> torch.dtype:
    """The type of unquantised weights, from the recipe; a GPU is assumed to be faster in bfloat16."""
    if not isinstance(recipe.method, Lora):
        return torch.float32
    if recipe.backbone.dtype == "auto" and device == "cuda":
        return torch.bfloat16
    return training_dtype(recipe.backbone, torch.device("cpu"))


def largest(
    recipe: Recipe, lengths: Sequence[int] | None, validation: Sequence[int] | None, *, packed: bool = True
) -> Work:
    """The largest possible work of a step: the one with the longest examples."""
    most, size = recipe.train.micro_batch_tokens, recipe.train.batch_size
    if lengths is None:
        lengths = [recipe.chat.max_length] * size
    longest = sorted(lengths, reverse=True)[:size]
    held_out = sorted(longest if validation is None else validation, reverse=True)
    if not packed:
        return Work(tuple(longest[:1]), len(longest), tuple(held_out[:1]))
    return Work(_full_row(longest, most), len(bins(longest, most)), _full_row(held_out, most))


def _full_row(longest_first: Sequence[int], most: int) -> tuple[int, ...]:
    """The fullest possible row: the longest examples, the last one cut to fit."""
    row: list[int] = []
    for length in longest_first:
        room = most - sum(row)
        if room <= 1 and row:
            break
        row.append(min(length, room) if row else length)
    return tuple(row)


def ledger_of(
    followed: Followed,
    model: Skeleton,
    recipe: Recipe,
    described: Described,
    device: Device,
    tokens: int,
) -> Ledger:
    """The ledger of a simulated step."""
    peak, index = _on_gpu(followed) if device == "cuda" else heap_use.peak(followed)
    parts = followed.parts_at(index)
    own = followed.standing
    saving = own[Part.WEIGHTS] + own[Part.QUANTISATION] + 3 * own[Part.ADAPTER] + _COMPARED
    if not isinstance(recipe.method, Lora):
        saving = 2 * own[Part.WEIGHTS] + _COMPARED  # reads back a second model beside the first
    here = device == "cpu"
    return Ledger(
        device=device,
        weights=parts[Part.WEIGHTS],
        quantisation_state=parts[Part.QUANTISATION],
        adapter=parts[Part.ADAPTER],
        gradients=parts[Part.GRADIENTS],
        optimiser=parts[Part.OPTIMISER],
        activations=parts[Part.ACTIVATIONS],
        loss_workspace=parts[Part.LOSS],
        allocator_slack=peak - sum(parts.values()),
        runtime=_RUNTIME["step"] if here else 0,
        loading=_loading(own, model, described) + _RUNTIME["loading"] if here else own[Part.WEIGHTS],
        saving=saving + _RUNTIME["saving"] if here else saving,
        baseline=_IMPORTS if here else _CONTEXT,
        tokens=tokens,
    )


def _on_gpu(followed: Followed) -> tuple[int, int]:
    live = followed.timeline.live()
    index = max(range(followed.first, len(live)), key=live.__getitem__)
    standing = sum(followed.standing.values())
    return standing + int((live[index] - standing) * _CUDA_SLACK), index


def _loading(standing: dict[Part, int], model: Skeleton, described: Described) -> int:
    """Peak of bytes while the model is loaded.

    safetensors files are mapped, not read: their pages count as long as any tensor is a view of them. Weights in the file's
    own type stay views. Converted or quantised weights are in memory beside the file until its last view is gone. All
    weights of a GGUF file are unpacked to float32, the largest with a temporary copy. A model that is not on this machine
    yet is assumed to be published in bfloat16.
    """
    held, count = standing[Part.WEIGHTS] + standing[Part.QUANTISATION], sum(model.sizes)
    if described.kind == "gguf":
        converted = 0 if model.dtype == torch.float32 else count * model.dtype.itemsize
        return described.file_bytes + 4 * count + 2 * 4 * max(model.sizes) + converted
    file_bytes, dtype = described.file_bytes, described.dtype
    if described.kind == "unknown":
        file_bytes, dtype = 2 * count, torch.bfloat16
    if dtype != model.dtype:
        return max(file_bytes + count * model.dtype.itemsize, held)
    return held if standing[Part.QUANTISATION] == 0 else file_bytes + held
