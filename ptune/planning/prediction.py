"""What a recipe's training will need, predicted before any step and without reading a weight."""

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

# What code and objects take that appear while a model is loaded, trained and saved. Seen on two models that are not in the
# benchmark (Llama-shaped of 117M and Qwen3-shaped of 243M parameters), the same for both; 16 MiB of it is the plan itself.
_RUNTIME = {"loading": 56 * MIB, "step": 68 * MIB, "saving": 68 * MIB}
_IMPORTS = 405 * MIB  # VmHWM after `import ptune.fine_tune`
_COMPARED = (
    10 * 2**20 * 8
)  # reading back compares 2^20 logits (ptune.training.reload) in float64, some ten copies at once
# Of a GPU nothing is measured. The context's size is what NVIDIA's drivers are known to take on recent cards.
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
    """The ledger of training `recipe`.

    lengths: of the training examples, in tokens. None: not known yet; then rows are taken to be full.
    validation: of those held out; None: as long as the training examples.
    device: where it will be trained; None = a GPU where there is one.
    described: what `describe(recipe.backbone)` gave, to read it once only.

    Raises: BackboneError where the model cannot be found or read; RecipeError where the method does not fit it.
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
    """`predict` on a skeleton that was built for this recipe, or for one that differs in its rows only."""
    work = largest(recipe, lengths, validation, packed=model.packed)
    followed = follow(model, recipe.train, work, foreach=device == "cuda")
    return ledger_of(followed, model, recipe, described, device, sum(work.row))


def planned_dtype(recipe: Recipe, device: Device) -> torch.dtype:
    """The type of plain weights: as the recipe says; a GPU is taken to be faster in bfloat16."""
    if not isinstance(recipe.method, Lora):
        return torch.float32
    if recipe.backbone.dtype == "auto" and device == "cuda":
        return torch.bfloat16
    return training_dtype(recipe.backbone, torch.device("cpu"))


def largest(
    recipe: Recipe, lengths: Sequence[int] | None, validation: Sequence[int] | None, *, packed: bool = True
) -> Work:
    """The most that a step can have to do: the longest examples may meet in one."""
    most, size = recipe.train.micro_batch_tokens, recipe.train.batch_size
    if lengths is None:
        lengths = [recipe.chat.max_length] * size
    longest = sorted(lengths, reverse=True)[:size]
    held_out = sorted(longest if validation is None else validation, reverse=True)
    if not packed:
        return Work(tuple(longest[:1]), len(longest), tuple(held_out[:1]))
    return Work(_full_row(longest, most), len(bins(longest, most)), _full_row(held_out, most))


def _full_row(longest_first: Sequence[int], most: int) -> tuple[int, ...]:
    """A row as full as it can be: the longest examples, the last of them cut to what is left."""
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
    """The ledger of a step that was followed."""
    peak, index = _on_gpu(followed) if device == "cuda" else heap_use.peak(followed)
    parts = followed.parts_at(index)
    own = followed.standing
    saving = own[Part.WEIGHTS] + own[Part.QUANTISATION] + 3 * own[Part.ADAPTER] + _COMPARED
    if not isinstance(recipe.method, Lora):
        saving = 2 * own[Part.WEIGHTS] + _COMPARED  # a second model is read back beside the first
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
    """Most bytes held while the model is loaded into memory.

    safetensors files are mapped, not read: their pages count while any tensor is a view of them. Weights of the file's own
    type stay views. Weights that are converted or quantised lie beside the file until the last of its views is gone. Of a
    GGUF file all weights are unpacked to float32, the largest with a copy on the way. A model that is not on this machine
    yet is taken to be published in bfloat16.
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
