"""Simulates a training step and a validation pass on fake tensors, with the same code that trains."""

from __future__ import annotations

import contextlib
import itertools
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import torch
from peft import PeftModel
from torch import nn

from ptune.codecs.chat import Example
from ptune.config.recipe import Train
from ptune.planning.peft_on_shapes import peft_on_shapes
from ptune.planning.skeleton import Skeleton
from ptune.planning.storage import StorageTracker, Timeline
from ptune.training.checkpoint import trained
from ptune.training.loss.next_token import NextTokenObjective
from ptune.training.memory import heap, offloading
from ptune.training.memory.backward_pass import nothing_left_behind
from ptune.training.preparation import optimizer_for
from ptune.training.rows.packing import Batch, one_each, pack


class Part(StrEnum):
    """What a byte is used for."""

    WEIGHTS = "weights"
    QUANTISATION = "quantisation state"
    ADAPTER = "adapter"
    GRADIENTS = "gradients"
    OPTIMISER = "optimiser"
    ACTIVATIONS = "activations"
    LOSS = "loss workspace"


@dataclass(frozen=True)
class Work:
    """The largest work of a step."""

    row: tuple[int, ...]  # lengths of the examples in its largest row, in tokens
    rows: int  # least number of rows: with two, gradients are held while another row is computed
    validation: tuple[int, ...]  # lengths of the examples in the largest validation row; empty: no validation


@dataclass(frozen=True)
class Followed:
    """The storages of a step over time, and the part that each belongs to."""

    timeline: Timeline
    parts: tuple[Part, ...]  # the part of each storage
    spans: tuple[range, ...]  # events of the step, span by span; earlier ones belong to the setup
    standing: dict[Part, int]  # bytes that exist from the setup on
    offloaded: int = 0  # bytes that a GPU leaves in main memory, at most

    @property
    def first(self) -> int:
        """Index of the step's first event."""
        return self.spans[0].start

    def fullest(self) -> list[int]:
        """Index of the event after which most is live, of each span."""
        live = self.timeline.live()
        return [max(span, key=live.__getitem__, default=span.start - 1) for span in self.spans]

    def parts_at(self, index: int) -> dict[Part, int]:
        """Live bytes of each part after the event at `index`."""
        live = dict.fromkeys(Part, 0)
        for number in self.timeline.held_at(index):
            live[self.parts[number]] += self.timeline.sizes[number]
        return live


def follow(skeleton: Skeleton, train: Train, work: Work, device: Literal["cpu", "cuda"] = "cpu") -> Followed:
    """Simulates any step but the first, so that the optimiser already has its state.

    Spans are the forward pass, the two halves of the backward pass, the optimiser and the validation. In a deep model the peak
    of each grows by the same bytes with each layer: a backward pass is fullest at its first or at its last layer.
    On a GPU the optimiser updates all parameters at once. Of several rows one is followed there, beside the gradients of
    others; on a CPU two are, as the second finds the heap as the first left it.
    """
    tracker, main_memory = StorageTracker(), _MainMemory()
    model, on_gpu = skeleton.model, device == "cuda"
    objective = NextTokenObjective(skeleton.packed, 2**62, torch.device(device), skeleton.head)
    named: dict[int, Part] = {}
    optimizer = optimizer_for(
        model, train
    )  # bitsandbytes reads the values of its tables, which fake ones lack
    for group in optimizer.param_groups:
        group["foreach"] = on_gpu
    kept = main_memory.in_use() if on_gpu else contextlib.nullcontext()
    with skeleton.mode, tracker, peft_on_shapes(), _noted(tracker), kept, _loss_marked(skeleton, tracker):
        model.train()
        _name(named, Part.QUANTISATION, tracker.see(skeleton.quantisation))
        _name(named, Part.WEIGHTS, tracker.see([*_frozen(model), *model.buffers()]))
        own = Part.ADAPTER if isinstance(model, PeftModel) else Part.WEIGHTS
        _name(named, own, tracker.see(parameter for _, parameter in trained(model)))
        _first_update(optimizer, model)
        state = [value for entry in optimizer.state.values() for value in entry.values()]
        held = [*(value for value in state if isinstance(value, torch.Tensor)), *_copies(model, train)]
        _name(named, Part.OPTIMISER, tracker.see(held))
        standing = _sums(named, tracker.timeline)
        spans = _Spans(tracker.timeline)
        if on_gpu and work.rows > 1:
            for _, parameter in trained(model):
                parameter.grad = torch.empty_like(parameter)
        for _ in range(1 if on_gpu else min(work.rows, 2)):
            tracker.phase = "forward"
            score = objective.score(model, _row(work.row, skeleton.packed))
            spans.end()
            tracker.phase = "backward"
            with nothing_left_behind():
                (score.loss / 2 * 1).backward()
            del score
            spans.end(halves=2)
            gradients = [parameter.grad for _, parameter in trained(model) if parameter.grad is not None]
            _name(named, Part.GRADIENTS, tracker.see(gradients))
        torch.nn.utils.get_total_norm(gradients)
        del gradients
        tracker.phase = "optimiser"
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        spans.end()
        if work.validation:
            tracker.phase = "forward"
            _validate(model, objective, _row(work.validation, skeleton.packed), train)
        spans.end()
    timeline = tracker.timeline
    parts = tuple(
        named.get(number, Part.LOSS if phase == "loss" else Part.ACTIVATIONS)
        for number, phase in enumerate(timeline.phases)
    )
    return Followed(timeline, parts, spans.ranges(), standing, main_memory.most)


class _MainMemory:
    """Counts what a GPU sends to main memory (`ptune.training.memory.offloading`)."""

    def __init__(self) -> None:
        self.now = self.most = 0

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Within the block, tensors are sent here instead."""
        own = offloading.send, offloading.bring
        offloading.send, offloading.bring = self._send, self._bring
        try:
            yield
        finally:
            offloading.send, offloading.bring = own

    def _send(self, blocks: object, tensor: torch.Tensor) -> offloading.Away:
        self.now += (size := offloading.block_bytes(tensor.nbytes))
        self.most = max(self.most, self.now)
        # As many numbers in the memory of one: what is created here counts as the GPU's.
        away = offloading.Away(tensor.new_empty(()).expand(tensor.shape), tensor.device)
        weakref.finalize(away, self._left, size)
        return away

    def _bring(self, away: offloading.Away) -> torch.Tensor:
        return away.kept.new_empty(away.kept.shape)

    def _left(self, size: int) -> None:
        self.now -= size


class _Spans:
    """Notes where spans end while a timeline grows."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._ends = [len(timeline.events)]

    def end(self, halves: int = 1) -> None:
        """Ends a span, or two of equally many events."""
        start, now = self._ends[-1], len(self._timeline.events)
        self._ends += [start + (now - start) * part // halves for part in range(1, halves + 1)]

    def ranges(self) -> tuple[range, ...]:
        return tuple(range(*pair) for pair in itertools.pairwise(self._ends))


def _frozen(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if not parameter.requires_grad]


def _name(named: dict[int, Part], part: Part, numbers: Sequence[int]) -> None:
    for number in numbers:
        named.setdefault(number, part)


def _sums(named: dict[int, Part], timeline: Timeline) -> dict[Part, int]:
    sums = dict.fromkeys(Part, 0)
    for number, part in named.items():
        sums[part] += timeline.sizes[number]
    return sums


def _first_update(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """Creates the optimiser's state."""
    for _, parameter in trained(model):
        parameter.grad = torch.empty_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


@torch.no_grad()
def _validate(model: nn.Module, objective: NextTokenObjective, row: Batch, train: Train) -> None:
    model.eval()
    weights = _copies(model, train)  # while their average is in their place
    objective.score(model, row)
    del weights


def _copies(model: nn.Module, train: Train) -> list[torch.Tensor]:
    """As much as a running average of the weights takes, if there is one."""
    return [one.detach().clone() for _, one in trained(model)] if train.ema is not None else []


def _row(lengths: Sequence[int], packed: bool) -> Batch:
    """A row of examples of these lengths with the most possible targets: all tokens but the first of each."""
    examples = [Example((0,) * length, (False, *[True] * (length - 1))) for length in lengths]
    if packed:
        return next(iter(pack(examples, sum(lengths), "cpu")))
    return next(iter(one_each(examples[:1], "cpu")))


@contextlib.contextmanager
def _noted(tracker: StorageTracker) -> Iterator[None]:
    """Within the block, only records where training would return free pages to the system."""
    own = heap.give_back
    heap.give_back = tracker.give_back
    try:
        yield
    finally:
        heap.give_back = own


@contextlib.contextmanager
def _loss_marked(skeleton: Skeleton, tracker: StorageTracker) -> Iterator[None]:
    """Within the block, counts storages from the output head to the end of a forward pass as part of the loss."""

    def begin(*_: object) -> None:
        tracker.phase = "loss"

    handle = skeleton.backbone.get_output_embeddings().register_forward_pre_hook(begin)
    try:
        yield
    finally:
        handle.remove()
