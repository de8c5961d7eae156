"""One training step and one validation pass, followed on fake tensors: the very code that trains, without its numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from peft import PeftModel
from torch import nn

from ptune.codecs.chat import Example
from ptune.config.recipe import Train
from ptune.planning.skeleton import Skeleton
from ptune.planning.storage import StorageTracker, Timeline
from ptune.training import heap
from ptune.training.checkpoint import trained
from ptune.training.next_token import NextTokenObjective
from ptune.training.packing import Batch, one_each, pack
from ptune.training.preparation import optimizer_for


class Part(StrEnum):
    """What a byte is there for."""

    WEIGHTS = "weights"
    QUANTISATION = "quantisation state"
    ADAPTER = "adapter"
    GRADIENTS = "gradients"
    OPTIMISER = "optimiser"
    ACTIVATIONS = "activations"
    LOSS = "loss workspace"


@dataclass(frozen=True)
class Work:
    """What a step has to do at most."""

    row: tuple[int, ...]  # lengths of the examples of its largest row, in tokens
    rows: int  # how many rows there are at least: with two, gradients are held while another row is computed
    validation: tuple[int, ...]  # lengths of the examples of the largest validation row; empty: none


@dataclass(frozen=True)
class Followed:
    """A step's storages over time, and what each is for."""

    timeline: Timeline
    parts: tuple[Part, ...]  # of each storage
    first: int  # events before this one set up what is there before the first step
    standing: dict[Part, int]  # bytes that are there from then on

    def parts_at(self, index: int) -> dict[Part, int]:
        """Live bytes of each part after the event at `index`."""
        found = dict.fromkeys(Part, 0)
        for number in self.timeline.held_at(index):
            found[self.parts[number]] += self.timeline.sizes[number]
        return found


def follow(skeleton: Skeleton, train: Train, work: Work, *, foreach: bool = False) -> Followed:
    """Follows a step as any but the first is: the optimiser has its state.

    foreach: the optimiser updates all parameters at once, as it does on a GPU.
    """
    tracker = StorageTracker()
    model = skeleton.model
    objective = NextTokenObjective(skeleton.packed, 2**62, torch.device("cpu"), skeleton.head)
    named: dict[int, Part] = {}
    with skeleton.mode, tracker, _noted(tracker), _loss_marked(skeleton, tracker):
        model.train()
        _name(named, Part.QUANTISATION, tracker.see(skeleton.quantisation))
        _name(named, Part.WEIGHTS, tracker.see([*_frozen(model), *model.buffers()]))
        own = Part.ADAPTER if isinstance(model, PeftModel) else Part.WEIGHTS
        _name(named, own, tracker.see(parameter for _, parameter in trained(model)))
        optimizer = optimizer_for(model, train)
        for group in optimizer.param_groups:
            group["foreach"] = foreach
        _first_update(optimizer, model)
        state = [value for entry in optimizer.state.values() for value in entry.values()]
        _name(named, Part.OPTIMISER, tracker.see(value for value in state if isinstance(value, torch.Tensor)))
        first, standing = len(tracker.timeline.events), _sums(named, tracker.timeline)
        for _ in range(min(work.rows, 2)):
            tracker.phase = "forward"
            score = objective.score(model, _row(work.row, skeleton.packed))
            tracker.phase = "backward"
            (score.loss / 2 * 1).backward()
            del score
            gradients = [parameter.grad for _, parameter in trained(model) if parameter.grad is not None]
            _name(named, Part.GRADIENTS, tracker.see(gradients))
        torch.nn.utils.get_total_norm(gradients)
        del gradients
        tracker.phase = "optimiser"
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if work.validation:
            tracker.phase = "forward"
            with torch.no_grad():
                model.eval()
                objective.score(model, _row(work.validation, skeleton.packed))
    timeline = tracker.timeline
    parts = tuple(
        named.get(number, Part.LOSS if phase == "loss" else Part.ACTIVATIONS)
        for number, phase in enumerate(timeline.phases)
    )
    return Followed(timeline, parts, first, standing)


def _frozen(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if not parameter.requires_grad]


def _name(named: dict[int, Part], part: Part, numbers: Sequence[int]) -> None:
    for number in numbers:
        named.setdefault(number, part)


def _sums(named: dict[int, Part], timeline: Timeline) -> dict[Part, int]:
    found = dict.fromkeys(Part, 0)
    for number, part in named.items():
        found[part] += timeline.sizes[number]
    return found


def _first_update(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """Makes the optimiser's state."""
    for _, parameter in trained(model):
        parameter.grad = torch.empty_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _row(lengths: Sequence[int], packed: bool) -> Batch:
    """A row of examples of these lengths; all of their tokens but the first are targets, which is the most there can be."""
    examples = [Example((0,) * length, (False, *[True] * (length - 1))) for length in lengths]
    if packed:
        return next(iter(pack(examples, sum(lengths), "cpu")))
    return next(iter(one_each(examples[:1], "cpu")))


@contextlib.contextmanager
def _noted(tracker: StorageTracker) -> Iterator[None]:
    """Inside, pages that training would hand back are only noted."""
    own = heap.give_back
    heap.give_back = tracker.give_back
    try:
        yield
    finally:
        heap.give_back = own


@contextlib.contextmanager
def _loss_marked(skeleton: Skeleton, tracker: StorageTracker) -> Iterator[None]:
    """Inside, what is made from the output head to the end of a forward pass belongs to the loss."""

    def begin(*_: object) -> None:
        tracker.phase = "loss"

    handle = skeleton.backbone.get_output_embeddings().register_forward_pre_hook(begin)
    try:
        yield
    finally:
        handle.remove()
