"""Finds the cheapest change that makes a training fit. A resume keeps it (`ptune.training.memory.remedies`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

import torch
from transformers import AutoModelForCausalLM

from ptune.config.recipe import Recipe
from ptune.errors import RecipeError
from ptune.planning.depth import Shallow, in_shapes
from ptune.planning.files import Described, describe
from ptune.planning.hardware import HEADROOM, card_for, proposable
from ptune.planning.memory_ledger import Ledger, gigabytes
from ptune.planning.model_memory import without_weights
from ptune.planning.prediction import Device, planned_dtype, predict_on
from ptune.progress import Progress
from ptune.training.layers.tiles import feed_forwards
from ptune.training.memory.remedies import DEARER, LEAST_ROW, STREAM, TILES, Saving, changed, options

_ROUNDS = 4  # of coming nearer to the largest row that fits
_NEAR = 0.03  # share of a row that is not worth another round


@dataclass(frozen=True)
class Fit:
    """A recipe that fits, and its differences from the original recipe. Where none fits, the one that needs least."""

    recipe: Recipe
    ledger: Ledger
    changes: tuple[str, ...]  # as command-line options; empty: the original
    memory_bytes: int  # what there is
    fits: bool = True

    def described(self) -> str:
        """What to do, in a sentence."""
        with_them = " ".join(self.changes)
        needed = gigabytes(self.ledger.needed_bytes)
        if self.fits:
            return f"what fits: {with_them} ({needed})"
        even = f"even with {with_them} it needs {needed}" if self.changes else f"nothing lowers its {needed}"
        return f"nothing makes it fit: {even}; {_larger_or_smaller(self.ledger, self.memory_bytes)}"


def _larger_or_smaller(ledger: Ledger, memory_bytes: int) -> str:
    """The least memory that would do, and how large a model would."""
    base = ledger.weights + ledger.quantisation_state
    rest = ledger.needed_bytes - base
    share = (proposable(memory_bytes) - rest) / base
    smaller = f", or a model of {share:.0%} of its size" if share >= 0.05 else ", or a much smaller model"
    if ledger.device == "cpu":
        least = int(ledger.needed_bytes / (1 - HEADROOM))
        return f"{gigabytes(least)} of memory would do{smaller}"
    card = card_for(ledger.needed_bytes)
    larger = (
        "no card that ptune knows would do"
        if card is None
        else f"a card of {card[1]} GB ({card[0]}) would do"
    )
    return f"{larger}{smaller}"


@dataclass(frozen=True)
class _Question:
    """Everything that stays the same while candidate recipes are tried."""

    lengths: Sequence[int] | None
    validation: Sequence[int] | None
    memory_bytes: int  # that a change may take
    device: Device
    described: Described
    progress: Progress
    of_card: torch.dtype | None
    models: dict[tuple[bool, bool, int | None, str], Shallow] = field(default_factory=dict)
    asked: list[tuple[Recipe, Ledger]] = field(default_factory=list)

    def ask(self, recipe: Recipe) -> Ledger:
        lengths, validation = (
            None if given is None else [min(length, recipe.chat.max_length) for length in given]
            for given in (self.lengths, self.validation)
        )
        train = recipe.train
        kept = train.gradient_checkpointing, train.activation_offloading, train.tiled_mlp
        key = (*kept, recipe.backbone.quantize)
        if key not in self.models:
            dtype = planned_dtype(recipe, self.device, self.of_card)
            self.models[key] = in_shapes(self.described.config, recipe, dtype, self.device)
        ledger = predict_on(self.models[key], recipe, lengths, validation, self.device, self.described)
        self.progress.advance()
        self.asked.append((recipe, ledger))
        return ledger

    def offers(self, saving: Saving, recipe: Recipe) -> bool:
        """Whether a change saves anything on this device and for this model."""
        if saving.of_a_card and self.device != "cuda":
            return False
        if saving is not TILES:
            return True
        trusted = recipe.backbone.trust_remote_code
        plain = without_weights(self.described.config, AutoModelForCausalLM, trust_remote_code=trusted)
        return bool(feed_forwards(plain))

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
    of_card: torch.dtype | None = None,
) -> Fit:
    """`recipe` with the cheapest changes that make it fit into `memory_bytes`, or with those that need least.

    A change leaves some of the memory free (`ptune.planning.hardware.HEADROOM`); a recipe that fits as it is need not.
    lengths, validation, of_card: as in `predict`.
    """
    with Progress("looking for what fits", 12, unit="predictions") as progress:
        described = described or describe(recipe.backbone)
        most = proposable(memory_bytes)
        question = _Question(lengths, validation, most, device, described, progress, of_card)
        for tried in _stages(recipe, question):
            ledger = question.ask(tried)
            if tried is recipe and ledger.needed_bytes <= memory_bytes:
                return Fit(recipe, ledger, (), memory_bytes)
            fitting = (tried, ledger) if question.fits(ledger) else _narrower(tried, ledger, question)
            if fitting is not None:
                found, ledger = _without_needless(*fitting, recipe, question)
                return Fit(found, ledger, options(recipe, found), memory_bytes)
    least = min(question.asked, key=lambda pair: pair[1].needed_bytes)
    return Fit(*least, options(recipe, least[0]), memory_bytes, fits=False)


def refuse(recipe: Recipe, ledger: Ledger, fit: Fit) -> NoReturn:
    """Raises: RecipeError that states the memory needed, for what, and what to change, or what else would do."""
    parts = ", ".join(f"{name} {gigabytes(amount)}" for name, amount in ledger.rows() if amount >= 5 * 10**7)
    way = f"{fit.described()}, or --plan.auto" if fit.fits else fit.described()
    raise RecipeError(
        f"training {recipe.name} needs {gigabytes(ledger.needed_bytes)}, predicted, of {gigabytes(fit.memory_bytes)}"
        f" (decided by {ledger.decides}; a step: {parts}); {way}"
    )


def _stages(recipe: Recipe, question: _Question) -> Iterator[Recipe]:
    """The recipe, then with one more change at a time. Each stage is also tried with smaller rows.

    Where all of them together are not enough, layers are streamed: first with examples as long as they were.
    """
    yield recipe
    whole = recipe
    for saving in DEARER:
        if saving.notch(recipe) is None or not question.offers(saving, recipe):
            continue
        while (cheaper := saving.notch(recipe)) is not None:
            recipe = cheaper
            whole = recipe if saving.section != "task" else whole
            yield recipe
    for last in (whole, recipe):
        if (streamed := STREAM.notch(last)) is not None:
            yield streamed


def _without_needless(
    found: Recipe, ledger: Ledger, before: Recipe, question: _Question
) -> tuple[Recipe, Ledger]:
    """`found` without the stages on its way that it fits without: long rows gain by them, others need not."""
    for name in ("tiled_mlp", "activation_offloading"):
        value = getattr(before.train, name)
        if getattr(found.train, name) != value:
            plainer = changed(found, "train", **{name: value})
            predicted = question.ask(plainer)
            if question.fits(predicted):
                found, ledger = plainer, predicted
    return found, ledger


def _narrower(recipe: Recipe, wide: Ledger, question: _Question) -> tuple[Recipe, Ledger] | None:
    """`recipe` with the largest rows that fit; None if rows as long as the longest example do not fit.

    wide: the ledger of `recipe`. The memory needed is a maximum of straight lines over the tokens of a row. So where a straight
    line between one that fits and one that does not meets the limit, it fits.
    """
    longest = max(question.lengths) if question.lengths else recipe.chat.max_length
    least, most = max(LEAST_ROW, min(longest, recipe.chat.max_length)), _widest(recipe, question)
    if least >= most:
        return None
    best = changed(recipe, "train", micro_batch_tokens=least)
    ledger = question.ask(best)
    if not question.fits(ledger):
        return None
    for _ in range(_ROUNDS):
        tokens, room = best.train.micro_batch_tokens, question.memory_bytes - ledger.needed_bytes
        more = room * (most - tokens) // max(1, wide.needed_bytes - ledger.needed_bytes)
        if more <= _NEAR * tokens:
            break
        tried = changed(recipe, "train", micro_batch_tokens=tokens + more)
        predicted = question.ask(tried)
        if question.fits(predicted):
            best, ledger = tried, predicted
        else:  # on a CPU the allocator bends the lines a little
            most, wide = tokens + more, predicted
    return best, ledger


def _widest(recipe: Recipe, question: _Question) -> int:
    """Tokens of the largest possible row: a larger `train.micro_batch_tokens` changes nothing."""
    size, most = recipe.train.batch_size, recipe.train.micro_batch_tokens
    if question.lengths is None:
        return min(most, size * recipe.chat.max_length)
    step = sum(sorted(question.lengths, reverse=True)[:size])
    return min(most, max(step, sum(question.validation or ())))
