"""Finds the cheapest change that makes a training fit. A resume keeps it (`ptune.training.memory_remedies`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from ptune.config.recipe import Recipe
from ptune.errors import RecipeError
from ptune.planning.files import Described, describe
from ptune.planning.hardware import proposable
from ptune.planning.memory_ledger import Ledger, gigabytes
from ptune.planning.prediction import Device, planned_dtype, predict_on
from ptune.planning.skeleton import Skeleton, skeleton
from ptune.progress import Progress
from ptune.training.memory_remedies import DEARER, LEAST_ROW, changed, options

NOTHING = "no change of rows, checkpointing, nf4 or length makes it fit: take a smaller backbone.model"
_ROUNDS = 5  # rounds of bisection: the result is within 3 % of the largest row that fits


@dataclass(frozen=True)
class Fit:
    """A recipe that fits, and its differences from the original recipe."""

    recipe: Recipe
    ledger: Ledger
    changes: tuple[str, ...]  # as command-line options; empty: the original fits


@dataclass(frozen=True)
class _Question:
    """Everything that stays the same while candidate recipes are tried."""

    lengths: Sequence[int] | None
    validation: Sequence[int] | None
    memory_bytes: int  # that a change may take
    device: Device
    described: Described
    progress: Progress
    skeletons: dict[tuple[bool, str], Skeleton] = field(default_factory=dict)

    def ask(self, recipe: Recipe) -> Ledger:
        lengths, validation = (
            None if given is None else [min(length, recipe.chat.max_length) for length in given]
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
    """`recipe` with the cheapest changes that make it fit into `memory_bytes`; None if no change is enough.

    A change leaves some of the memory free (`ptune.planning.hardware.HEADROOM`); a recipe that fits as it is need not.
    lengths, validation: as in `predict`.
    """
    with Progress("looking for what fits", 40, unit="predictions") as progress:
        question = _Question(
            lengths,
            validation,
            proposable(memory_bytes),
            device,
            described or describe(recipe.backbone),
            progress,
        )
        for tried in _stages(recipe):
            ledger = question.ask(tried)
            if tried is recipe and ledger.needed_bytes <= memory_bytes:
                return Fit(recipe, ledger, ())
            fitting = (tried, ledger) if question.fits(ledger) else _narrower(tried, question)
            if fitting is not None:
                return Fit(*fitting, options(recipe, fitting[0]))
    return None


def refuse(recipe: Recipe, ledger: Ledger, memory_bytes: int, fit: Fit | None) -> NoReturn:
    """Raises: RecipeError that states the memory needed, for what, and what to change: `fit`, if any change helps."""
    parts = ", ".join(f"{name} {gigabytes(amount)}" for name, amount in ledger.rows() if amount >= 5 * 10**7)
    if fit is None:
        way = NOTHING
    else:
        way = f"what fits: {' '.join(fit.changes)} ({gigabytes(fit.ledger.needed_bytes)} predicted), or --plan.auto"
    raise RecipeError(
        f"training {recipe.name} needs {gigabytes(ledger.needed_bytes)}, predicted, of {gigabytes(memory_bytes)}"
        f" (decided by {ledger.decides}; a step: {parts}); {way}"
    )


def _stages(recipe: Recipe) -> Iterator[Recipe]:
    """The recipe, then with one more change at a time. Each stage is also tried with smaller rows."""
    yield recipe
    for saving in DEARER:
        while (cheaper := saving.notch(recipe)) is not None:
            recipe = cheaper
            yield recipe


def _narrower(recipe: Recipe, question: _Question) -> tuple[Recipe, Ledger] | None:
    """`recipe` with the largest rows that fit; None if rows as long as the longest example do not fit."""
    longest = max(question.lengths) if question.lengths else recipe.chat.max_length
    least, most = (
        max(LEAST_ROW, min(longest, recipe.chat.max_length)),
        _widest(recipe, question),
    )
    if least >= most:
        return None
    best = changed(recipe, "train", micro_batch_tokens=least)
    ledger = question.ask(best)
    if not question.fits(ledger):
        return None
    for _ in range(_ROUNDS):
        middle = (best.train.micro_batch_tokens + most) // 2
        tried = changed(recipe, "train", micro_batch_tokens=middle)
        predicted = question.ask(tried)
        if question.fits(predicted):
            best, ledger = tried, predicted
        else:
            most = middle
    return best, ledger


def _widest(recipe: Recipe, question: _Question) -> int:
    """Tokens of the largest possible row: a larger `train.micro_batch_tokens` changes nothing."""
    size, most = recipe.train.batch_size, recipe.train.micro_batch_tokens
    if question.lengths is None:
        return min(most, size * recipe.chat.max_length)
    step = sum(sorted(question.lengths, reverse=True)[:size])
    return min(most, max(step, sum(question.validation or ())))
