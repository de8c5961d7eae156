"""The cheapest change that makes a training fit.

Cheapest first, and what was changed stays changed:
1. a smaller `train.micro_batch_tokens`, down to the longest example. It changes neither the batch nor the result: the
   gradient is accumulated exactly, in more forward passes. So it comes before all that follows.
2. `train.gradient_checkpointing`: the same result, about a third more time.
3. `backbone.quantize` nf4: another base, which computes a little worse.
4. a smaller `task.max_length`: data is lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from ptune.errors import RecipeError
from ptune.methods.lora import Lora
from ptune.planning.files import Described, describe
from ptune.planning.ledger import Ledger, gigabytes
from ptune.planning.prediction import Device, planned_dtype, predict_on
from ptune.planning.skeleton import Skeleton, skeleton
from ptune.progress import Progress
from ptune.recipe import Recipe

NOTHING = "no change of rows, checkpointing, nf4 or length makes it fit: take a smaller backbone.model"
SHORTEST = 128  # tokens: shorter examples are hardly worth training on
_LEAST_ROW = 16  # what train.micro_batch_tokens may be at least
_ROUNDS = 5  # of bisection: the row found is within 3 % of the largest that fits


@dataclass(frozen=True)
class Fit:
    """A recipe that fits, and how it differs from the one that was asked for."""

    recipe: Recipe
    ledger: Ledger
    changes: tuple[str, ...]  # as options of the command line; empty: it fits as it is


@dataclass(frozen=True)
class _Question:
    """Everything that stays the same while recipes are tried."""

    lengths: Sequence[int] | None
    validation: Sequence[int] | None
    memory_bytes: int
    device: Device
    described: Described
    progress: Progress
    skeletons: dict[tuple[bool, str], Skeleton] = field(default_factory=dict)

    def ask(self, recipe: Recipe) -> Ledger:
        lengths, validation = (
            None if given is None else [min(length, recipe.task.max_length) for length in given]
            for given in (self.lengths, self.validation)
        )
        key = (recipe.train.gradient_checkpointing, recipe.backbone.quantize)
        if key not in self.skeletons:
            dtype = planned_dtype(recipe, self.device)
            self.skeletons[key] = skeleton(self.described.config, recipe, dtype)
        ledger = predict_on(self.skeletons[key], recipe, lengths, validation, self.device, self.described)
        self.progress.advance()
        return ledger

    def fits(self, ledger: Ledger) -> bool:
        return ledger.needed_bytes <= self.memory_bytes


def fit_into(
    recipe: Recipe,
    lengths: Sequence[int] | None,
    memory_bytes: int,
    *,
    validation: Sequence[int] | None = None,
    device: Device = "cpu",
    described: Described | None = None,
) -> Fit | None:
    """`recipe` with the cheapest changes that make it fit into `memory_bytes`; None where none of them is enough.

    lengths, validation: as `predict` takes them.
    """
    with Progress("looking for what fits", 40, unit="predictions") as progress:
        question = _Question(
            lengths, validation, memory_bytes, device, described or describe(recipe.backbone), progress
        )
        for tried, changes in _stages(recipe):
            ledger = question.ask(tried)
            if question.fits(ledger):
                return Fit(tried, ledger, changes)
            narrower = _narrower(tried, changes, question)
            if narrower is not None:
                return narrower
    return None


def refuse(recipe: Recipe, ledger: Ledger, memory_bytes: int, found: Fit | None) -> NoReturn:
    """Raises: RecipeError that says what training needs, of what, and what to change: `found`, if anything helps."""
    parts = ", ".join(f"{name} {gigabytes(amount)}" for name, amount in ledger.rows() if amount >= 5 * 10**7)
    if found is None:
        way = NOTHING
    else:
        way = f"what fits: {' '.join(found.changes)} ({gigabytes(found.ledger.needed_bytes)} predicted), or --plan.auto"
    raise RecipeError(
        f"training {recipe.name} needs {gigabytes(ledger.needed_bytes)}, predicted, of {gigabytes(memory_bytes)}"
        f" (decided by {ledger.decides}; a step: {parts}); {way}"
    )


def _stages(recipe: Recipe) -> Iterator[tuple[Recipe, tuple[str, ...]]]:
    """The recipe, and it with more and more changes; each stage is tried with smaller rows as well."""
    changes: tuple[str, ...] = ()
    yield recipe, changes
    if not recipe.train.gradient_checkpointing:
        recipe = _with(recipe, "train", gradient_checkpointing=True)
        changes += ("--train.gradient-checkpointing",)
        yield recipe, changes
    if recipe.backbone.quantize != "nf4" and isinstance(recipe.method, Lora):
        recipe = _with(recipe, "backbone", quantize="nf4")
        changes += ("--backbone.quantize nf4",)
        yield recipe, changes
    length = recipe.task.max_length
    while length // 2 >= SHORTEST:
        length //= 2
        cut = "truncate" if recipe.task.on_overlong == "error" else recipe.task.on_overlong
        shorter = _with(recipe, "task", max_length=length, on_overlong=cut)
        words = f"--task.max-length {length} --task.on-overlong {cut}"
        yield shorter, (*changes, words)


def _narrower(recipe: Recipe, changes: tuple[str, ...], question: _Question) -> Fit | None:
    """`recipe` with the largest rows that fit, None where not even rows of the longest example do."""
    longest = max(question.lengths) if question.lengths else recipe.task.max_length
    least, most = (
        max(_LEAST_ROW, min(longest, recipe.task.max_length)),
        _widest(recipe, question),
    )
    if least >= most:
        return None
    best, ledger = least, question.ask(_with(recipe, "train", micro_batch_tokens=least))
    if not question.fits(ledger):
        return None
    for _ in range(_ROUNDS):
        middle = (best + most) // 2
        tried = question.ask(_with(recipe, "train", micro_batch_tokens=middle))
        if question.fits(tried):
            best, ledger = middle, tried
        else:
            most = middle
    narrow = _with(recipe, "train", micro_batch_tokens=best)
    return Fit(narrow, ledger, (f"--train.micro-batch-tokens {best}", *changes))


def _widest(recipe: Recipe, question: _Question) -> int:
    """Tokens of the largest row there is: beyond it `train.micro_batch_tokens` changes nothing."""
    size, most = recipe.train.batch_size, recipe.train.micro_batch_tokens
    if question.lengths is None:
        return min(most, size * recipe.task.max_length)
    step = sum(sorted(question.lengths, reverse=True)[:size])
    return min(most, max(step, sum(question.validation or ())))


def _with(recipe: Recipe, section: str, **values: object) -> Recipe:
    part = getattr(recipe, section)
    return recipe.model_copy(update={section: part.model_copy(update=values)})
