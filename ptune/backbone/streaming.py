"""A model whose frozen layers lie in a file and are in memory only while they run.

Two layers are in memory: the one that runs, and the one that will run next, which a thread reads meanwhile. Embedding, head
and adapter stay. A forward pass reads the layers from the first to the last, a backward pass from the last to the first.
There each layer is computed again before its gradient (gradient checkpointing), so nothing that autograd has kept refers to
the weights of a layer that has gone. Numbers are the bits of a model in memory: they are the same bytes, in the same operators.

On a GPU a layer is read into pinned memory and copied to the card beside the computation. That has not been run on a GPU.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from ptune.backbone.layer_file import LayerFile, Place, places_of
from ptune.errors import BackboneError, PtuneError

_ALIGNED = 256  # bytes: where kernels find their operands in memory of their own


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The model's blocks: the longest list of modules that lies in no other list. Empty where there is none."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    inner = {id(one) for outer in lists for one in outer.modules() if one is not outer}
    return list(max((one for one in lists if id(one) not in inner), key=len, default=[]))


def streamable(model: nn.Module) -> list[list[Place]]:
    """What can leave memory, layer by layer: frozen weights that no other layer shares."""
    layers = layers_of(model)
    owners: dict[int, set[int]] = {}  # numbers of the layers that have a weight; -1: the rest of the model
    inside = {id(module): number for number, layer in enumerate(layers) for module in layer.modules()}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), set()).add(inside.get(id(module), -1))
    return [
        [
            place
            for parameter in layer.parameters()
            if not parameter.requires_grad and len(owners[id(parameter)]) == 1
            for place in places_of(parameter)
        ]
        for layer in layers
    ]


def bytes_in_memory(places: Sequence[Place]) -> int:
    """What a layer takes while it runs."""
    return sum(_aligned(place.tensor.nbytes) for place in places)


def stream(model: PreTrainedModel, file: LayerFile, device: torch.device) -> None:
    """Moves the layers of a frozen model on the CPU into `file`, and the rest of it to `device`; in place.

    Raises: BackboneError if the model has no layers that can be computed again one by one.
    """
    layers = layers_of(model)
    if not layers or not all(isinstance(layer, GradientCheckpointingLayer) for layer in layers):
        raise BackboneError(
            f"backbone.stream: {type(model).__name__} has no layers that transformers can recompute one by one"
        )
    pieces = []
    for places in streamable(model):
        for place in places:
            place.put(file.keep(place.tensor))
        pieces.append(_pieces(places, file))
    _move_the_rest(model, {id(piece.place.holder) for layer in pieces for piece in layer}, device)
    running = _Running(pieces, file, device)
    for number, layer in enumerate(layers):
        kind: Any = type(layer)
        layer.__class__ = _streamed(kind)
        layer.before_it_runs = functools.partial(running.enter, number)


def beside_activations(model: nn.Module, device: torch.device) -> None:
    """Moves adapters to `device`: peft puts them where the weights of their layers are, which here is a file. In place."""
    for name, parameter in model.named_parameters():
        if any(part.startswith("lora_") for part in name.split(".")):
            parameter.data = parameter.data.to(device)


@dataclass(frozen=True)
class _Piece:
    """A tensor of a layer."""

    place: Place
    kept: torch.Tensor  # the view of the file, which is in its place while the layer does not run
    offset: int  # in the file
    start: int  # in the memory that a layer is read into

    @property
    def span(self) -> slice:
        return slice(self.start, self.start + self.kept.nbytes)


def _pieces(places: Sequence[Place], file: LayerFile) -> list[_Piece]:
    pieces, start = [], 0
    for place in places:
        if place.tensor.nbytes:
            pieces.append(_Piece(place, place.tensor, file.offset_of(place.tensor), start))
            start += _aligned(place.tensor.nbytes)
    return pieces


def _aligned(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED


def _move_the_rest(model: nn.Module, streamed: set[int], device: torch.device) -> None:
    """Moves everything to `device` but what lies in the file."""
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if (state := getattr(parameter, "quant_state", None)) is not None:
                absmax = state.absmax
                state.to(device)
                state.absmax = absmax if id(state) in streamed else state.absmax
            if getattr(parameter, "SCB", None) is not None:
                parameter.SCB = parameter.SCB.to(device)
            if id(parameter) not in streamed:
                parameter.data = parameter.data.to(device)
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))


@functools.cache
def _streamed(kind: Any) -> type[nn.Module]:
    """A layer that has its weights read before it runs.

    transformers checkpoints the outermost `forward`, which is this one: so it is run again before a layer's gradient, too.
    """

    def forward(self: Any, *arguments: Any, **named: Any) -> Any:
        hidden = arguments[0] if arguments else named["hidden_states"]
        self.before_it_runs(hidden, recomputed=self.gradient_checkpointing and self.training)
        return kind.forward(self, *arguments, **named)

    return type(f"Streamed{kind.__name__}", (kind,), {"forward": forward})


class _Slot:
    """Memory for one layer."""

    def __init__(self, size: int, device: torch.device) -> None:
        self.holds: int | None = None  # number of the layer
        self._on_card = device.type == "cuda"
        self._host = torch.empty(size, dtype=torch.uint8, pin_memory=self._on_card)
        self._memory = torch.empty(size, dtype=torch.uint8, device=device) if self._on_card else self._host
        if self._on_card:
            self._copying = torch.cuda.Stream(device)
            self._copied, self._left = torch.cuda.Event(), torch.cuda.Event()

    def read(self, number: int, pieces: Sequence[_Piece], file: LayerFile) -> None:
        """Reads a layer, in any thread."""
        self.holds = None
        if self._on_card:
            self._copied.synchronize()  # the last copy out of the pinned memory
        for piece in pieces:
            file.read(piece.offset, self._host[piece.span])
        if self._on_card:
            with torch.cuda.stream(self._copying):
                self._copying.wait_event(self._left)
                self._memory.copy_(self._host, non_blocking=True)
                self._copied.record(self._copying)
        self.holds = number

    def enter(self, pieces: Sequence[_Piece]) -> None:
        """Gives a layer its weights."""
        if self._on_card:
            torch.cuda.current_stream().wait_event(self._copied)
        for piece in pieces:
            part = self._memory[piece.span]
            piece.place.put(part.view(piece.kept.dtype).view(piece.kept.shape))

    def leave(self, pieces: Sequence[_Piece]) -> None:
        """Takes a layer's weights from it: it has the file's again."""
        for piece in pieces:
            piece.place.put(piece.kept)
        if self._on_card:
            self._left.record(torch.cuda.current_stream())


class _Running:
    """Which layer runs, and which one is read ahead."""

    def __init__(self, layers: Sequence[Sequence[_Piece]], file: LayerFile, device: torch.device) -> None:
        self._layers, self._file = layers, file
        size = max(
            (layer[-1].start + _aligned(layer[-1].kept.nbytes) for layer in layers if layer), default=0
        )
        self._slots = [_Slot(size, device) for _ in range(2)]
        self._here = 0  # the slot of the layer that runs
        self._now: int | None = None  # that layer
        self._ahead: Future[None] | None = None  # reads into the other slot
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="layers")
        self._open: set[int] = set()  # layers whose gradient is not complete
        self.reads = 0  # layers read from the file

    def enter(self, number: int, hidden: torch.Tensor, *, recomputed: bool) -> None:
        """Puts the weights of a layer in their places before it runs, and begins to read those of the next.

        hidden: its input. recomputed: whether it will be computed again before its gradient.
        Raises: PtuneError if autograd would refer to weights that go.
        """
        backward = torch._C._current_graph_task_id() != -1  # as torch.utils.checkpoint asks it
        gradient = torch.is_grad_enabled() and hidden.requires_grad
        if gradient and not recomputed:
            raise PtuneError(
                "a gradient needs train.gradient_checkpointing where backbone.stream reads layers as they run"
            )
        if gradient and not backward:
            self._open.add(number)
            hidden.register_hook(lambda _gradient: self._open.discard(number))
        if number != self._now:
            if backward and self._now in self._open:
                raise PtuneError(
                    "backbone.stream: this model's layers do not follow each other in the backward pass"
                )
            self._change_to(number)
        self._read_ahead(self._next(number, backward, torch.is_grad_enabled()))

    def _change_to(self, number: int) -> None:
        there = 1 - self._here
        self._wait()
        if self._slots[there].holds != number:
            self._read(number, there)
        if self._now is not None:
            self._slots[self._here].leave(self._layers[self._now])
        self._slots[there].enter(self._layers[number])
        self._here, self._now = there, number

    def _next(self, number: int, backward: bool, gradient: bool) -> int:
        """The layer that will run after this one: the last one turns round if a gradient follows, as the first does after it."""
        last = len(self._layers) - 1
        if backward:
            return number - 1 if number > 0 else min(1, last)
        if number < last:
            return number + 1
        return max(0, last - 1) if gradient else 0

    def _read_ahead(self, number: int) -> None:
        there = 1 - self._here
        self._wait()
        if number not in (self._now, self._slots[there].holds):
            self._ahead = self._reader.submit(self._read, number, there)

    def _read(self, number: int, slot: int) -> None:
        self._slots[slot].read(number, self._layers[number], self._file)
        self.reads += 1

    def _wait(self) -> None:
        """Until nothing is being read. Raises: what reading raised."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.result()
