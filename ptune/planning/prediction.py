"""Predicts the memory of a recipe's training before the first step, without reading a weight."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch

from ptune.backbone.load import training_dtype
from ptune.backbone.precision import fastest
from ptune.config.chat import Chat
from ptune.config.recipe import Backbone, Recipe, Train
from ptune.methods.lora import Lora
from ptune.methods.lora_from_data import gradient_numbers, gradients_held_bytes
from ptune.methods.peft_method import PeftMethod
from ptune.planning import heap_use
from ptune.planning.depth import Shallow, in_shapes
from ptune.planning.files import Described, describe
from ptune.planning.loading import loading_bytes
from ptune.planning.memory_ledger import Ledger
from ptune.planning.step import Followed, Part, Work, follow
from ptune.planning.streamed import streamed
from ptune.planning.teacher import TOKENS as OF_TEACHER
from ptune.planning.teacher import with_teacher
from ptune.training.rows.packing import bins

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
    of_card: torch.dtype | None = None,
) -> Ledger:
    """The memory ledger of training `recipe`.

    lengths: of the training examples, in tokens. None: not known yet; rows are assumed to be full.
    validation: lengths of the validation examples; None: assumed as long as the training examples.
    device: where training will run; None = the GPU if there is one.
    described: the result of `describe(recipe.backbone)`, to avoid reading it again.
    of_card: see `planned_dtype`.

    Raises: BackboneError if the model cannot be found or read; RecipeError if the method does not fit it.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    described = described or describe(recipe.backbone)
    model = in_shapes(described.config, recipe, planned_dtype(recipe, device, of_card), device)
    return predict_on(model, recipe, lengths, validation, device, described)


def predict_on(
    model: Shallow,
    recipe: Recipe,
    lengths: Sequence[int] | None,
    validation: Sequence[int] | None,
    device: Device,
    described: Described,
) -> Ledger:
    """`predict` on skeletons that were built for this recipe, or for one that differs only in its rows."""
    work = largest(recipe, lengths, validation, packed=model.few.packed)
    step = step_of(model, recipe, work, device)
    own = ledger_of(step, model, recipe, described, device, sum(work.row))
    return with_teacher(own, recipe, lambda backbone: _alone(backbone.model_dump_json(), device))


@functools.lru_cache(maxsize=8)
def _alone(backbone: str, device: Device) -> Ledger:
    """Of one row of a teacher: plans try many lengths of rows, and each prediction takes seconds."""
    recipe = Recipe(
        task=Chat(),
        backbone=Backbone.model_validate_json(backbone),
        method=Lora(r=1),
        train=Train(batch_size=1, micro_batch_tokens=OF_TEACHER),
    )
    return predict(recipe, [OF_TEACHER], device=device)


def planned_dtype(recipe: Recipe, device: Device, of_card: torch.dtype | None = None) -> torch.dtype:
    """The type of unquantised weights that training will take.

    of_card: the type that a card computes fastest in; None: that of the one in this machine, or of cards since 2020.
    """
    if not isinstance(recipe.method, PeftMethod) or recipe.method.copies:
        return torch.float32
    if recipe.backbone.dtype == "auto" and device == "cuda":
        if of_card is None and torch.cuda.is_available():
            return fastest(torch.device("cuda"))
        return of_card or torch.bfloat16
    return training_dtype(recipe.backbone, torch.device("cpu"))


@dataclass(frozen=True)
class Moment:
    """Bytes when a span of a step is at its fullest."""

    parts: dict[Part, int]
    slack: int  # held by the allocator but not in use

    @property
    def total(self) -> int:
        return sum(self.parts.values()) + self.slack


@dataclass(frozen=True)
class Step:
    """The memory of a training step."""

    moments: tuple[Moment, ...]  # of each span
    standing: dict[Part, int]  # bytes that exist all the time
    offloaded: int = 0  # bytes that a GPU leaves in main memory

    @property
    def peak(self) -> Moment:
        return max(self.moments, key=lambda moment: moment.total)


def step_of(model: Shallow, recipe: Recipe, work: Work, device: Device) -> Step:
    """Follows a step; of a deep model two, from which the model's is extrapolated span by span."""
    few = _step(follow(model.few, recipe.train, work, device), device)
    if model.more is None:
        return few
    more = _step(follow(model.more, recipe.train, work, device), device)

    def extended(small: dict[Part, int], large: dict[Part, int]) -> dict[Part, int]:
        return {part: model.extended(small[part], large[part]) for part in Part}

    def slack(small: int, large: int) -> int:
        return model.extended(small, large) if device == "cuda" else max(small, large)  # a heap's is not even

    moments = tuple(
        Moment(extended(small.parts, large.parts), slack(small.slack, large.slack))
        for small, large in zip(few.moments, more.moments, strict=True)
    )
    offloaded = model.extended(few.offloaded, more.offloaded)
    return Step(moments, extended(few.standing, more.standing), offloaded)


def _step(followed: Followed, device: Device) -> Step:
    parts = [followed.parts_at(index) for index in followed.fullest()]
    live = [sum(one.values()) for one in parts]
    if device == "cuda":
        standing = sum(followed.standing.values())
        slack = [int((most - standing) * (_CUDA_SLACK - 1)) for most in live]
    else:
        slack = [held - most for held, most in zip(heap_use.peaks(followed), live, strict=True)]
    moments = tuple(Moment(*pair) for pair in zip(parts, slack, strict=True))
    return Step(moments, followed.standing, followed.offloaded)


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
    step: Step,
    model: Shallow,
    recipe: Recipe,
    described: Described,
    device: Device,
    tokens: int,
) -> Ledger:
    """The ledger of a simulated step."""
    peak, own = step.peak, step.standing
    base, file = own[Part.WEIGHTS] + own[Part.QUANTISATION], streamed(model, recipe)
    held = base - file.away
    saving = held + 3 * own[Part.ADAPTER] + _COMPARED
    if not isinstance(recipe.method, PeftMethod):
        saving = 2 * own[Part.WEIGHTS] + _COMPARED  # reads back a second model beside the first
    count = model.of_model(lambda one: sum(one.sizes))
    largest = model.few.largest_quantised or max(model.few.sizes)
    loading = loading_bytes(
        base,
        count,
        largest,
        model.few.dtype,
        described,
        file.away,
        quantised=recipe.backbone.quantize != "none",
    )
    here = device == "cpu"
    if (
        isinstance(recipe.method, Lora) and recipe.method.init == "loftq"
    ):  # the weights as they were, beside them
        unquantised = loading_bytes(4 * count, count, largest, torch.float32, described, quantised=False)
        loading = max(loading, (base if here else 0) + unquantised)
    begun = _begun(step, model, recipe)
    return Ledger(
        device=device,
        weights=peak.parts[Part.WEIGHTS] - file.weights + file.slots,
        quantisation_state=peak.parts[Part.QUANTISATION] - file.scales,
        adapter=peak.parts[Part.ADAPTER],
        gradients=peak.parts[Part.GRADIENTS],
        optimiser=peak.parts[Part.OPTIMISER],
        activations=peak.parts[Part.ACTIVATIONS],
        loss_workspace=peak.parts[Part.LOSS],
        allocator_slack=peak.slack,
        runtime=_RUNTIME["step"] if here else 0,
        loading=max(loading, begun) + _RUNTIME["loading"] if here else max(held, begun),
        saving=saving + _RUNTIME["saving"] if here else saving,
        baseline=_IMPORTS if here else _CONTEXT,
        main_memory=0 if here else loading + _RUNTIME["loading"],
        evaluation=step.moments[-1].total - own[Part.OPTIMISER] - file.away,
        tokens=tokens,
        away=file.away,
        offloaded=step.offloaded,
    )


def _begun(step: Step, model: Shallow, recipe: Recipe) -> int:
    """Bytes while an adapter begins with a gradient; 0 for others. There is no optimiser yet."""
    if not (isinstance(recipe.method, Lora) and recipe.method.init == "lora_ga"):
        return 0
    later = (Part.GRADIENTS, Part.OPTIMISER)
    passed = max(one.total - sum(one.parts[part] for part in later) for one in step.moments)
    total = model.of_model(lambda one: sum(gradient_numbers(one.model)))
    return passed + gradients_held_bytes(total, max(gradient_numbers(model.few.model)))
