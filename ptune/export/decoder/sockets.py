"""Sockets: every linear layer of a decoder gets inputs for adapters.

y = x W + b + ((x A) * lora_mask) B, with x [groups, tokens, in], A [G, in, R], B [G, R, out], lora_mask [groups, tokens, R].

Where adapters may bring biases, it is ((x A) * lora_mask + lora_ones) B: a column of ones makes a bias of the first row of B.
Where they may bring gains, x and x W + b are scaled first (`ptune.export.decoder.gains`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ptune.errors import BackboneError
from ptune.export.decoder.gains import exchanged, gained_input, gained_output
from ptune.export.decoder.states import READ, StateInputs
from ptune.formats import signature


@dataclass
class StepInputs:
    """The step's inputs that attention and sockets read while the model is traced."""

    lora_mask: Tensor
    factors: dict[str, tuple[Tensor, Tensor]]  # socket -> A, B
    past: list[Tensor]  # key, value of each cache
    pad_indices: Tensor
    unpad_indices: Tensor
    seqlens_k: Tensor
    query_seqlens: Tensor
    capacity: Tensor
    wanted: Tensor | None = None  # token columns that reach the head; None: all
    own: Tensor | None = None  # the rest is of sockets at the ends (`ptune.export.decoder.end_sockets`)
    kept: Tensor | None = None
    shift: Tensor | None = None
    ones: Tensor | None = None
    gains: dict[str, Tensor] = field(default_factory=dict)  # of `Signature.gain_sizes`, by their names
    gained: Tensor | None = None
    of_call: Sequence[
        int
    ] = ()  # the cache that each call of attention takes, in their order (`ptune.export.decoder.cache_geometry`)
    calls: int = 0  # so far
    states: StateInputs | None = None  # of layers that keep some
    present: list[Tensor] = field(default_factory=list)  # filled by attention, call by call
    shared: list[Tensor] = field(
        default_factory=list
    )  # likewise, by calls that take a cache for the second time

    def next_cache(self) -> tuple[Tensor, Tensor]:
        """Keys and values for the next call of attention."""
        cache = self.of_call[self.calls]
        return self.past[2 * cache], self.past[2 * cache + 1]

    def keep_cache(self, key: Tensor, value: Tensor) -> None:
        """Notes the keys and values that this call leaves."""
        again = self.of_call[self.calls] in self.of_call[: self.calls]
        (self.shared if again else self.present).extend((key, value))
        self.calls += 1

    def states_of(self, module: nn.Module) -> StateInputs:
        """What a layer with states reads. Raises: BackboneError where the graph has none."""
        if self.states is None:
            raise BackboneError(f"{type(module).__name__} keeps a state, and this graph has none")
        return self.states


class Socket(nn.Module):
    """A linear layer with its parameter names, its weight as [in, out], plus an adapter."""

    def __init__(self, linear: nn.Linear | Conv1D, name: str) -> None:
        super().__init__()
        shape = linear.weight.shape if isinstance(linear, Conv1D) else linear.weight.shape[::-1]
        self.name = name
        self.is_conv1d = isinstance(linear, Conv1D)
        self.in_features, self.out_features = shape
        self.weight = nn.Parameter(linear.weight.new_empty(shape), requires_grad=False)
        self.bias = linear.bias
        self.order: Tensor | None = None  # of outputs with halves exchanged, where adapters may turn them
        self.step: StepInputs | None = None  # set for each trace

    def forward(self, x: Tensor) -> Tensor:
        assert self.step is not None
        factor_a, factor_b = self.step.factors[self.name]
        lora_mask, gained = self.step.lora_mask, self.step.gained
        x = x if gained is None else gained_input(x, self.name, self.step.gains, gained)
        base = x @ self.weight if self.bias is None else x @ self.weight + self.bias
        if gained is not None:
            base = gained_output(base, self.name, self.step.gains, gained, self.order)
        flat = x.reshape(*lora_mask.shape[:2], -1)  # some models flatten groups and tokens before a linear
        # MatMul is emitted verbatim: G is 1 or groups, and R may be 0, which torch would specialise away.
        low = matmul(flat, factor_a, lora_mask.shape[-1])
        low = low * lora_mask if self.step.ones is None else low * lora_mask + self.step.ones
        return base + matmul(low, factor_b, self.out_features).reshape(base.shape)


def allow_gains(sockets: Sequence[Socket], ends: signature.Ends) -> signature.Ends:
    """`ends` with what layers have gains of: all, of their inputs, too. Prepares the sockets for turns."""
    for socket in sockets if ends.has_turns else ():
        del socket.order
        socket.register_buffer("order", exchanged(socket.out_features, ends.turn_group), persistent=False)
    shifts = tuple(socket.name for socket in sockets if socket.bias is not None)
    return ends.model_copy(update={"shifts": shifts, "inner": tuple(socket.name for socket in sockets)})


AnySocket = TypeVar("AnySocket", bound=Socket)


def matmul(x: Tensor, factor: Tensor, columns: int) -> Tensor:
    """x [groups, tokens, k] @ factor [G, k, columns] -> [groups, tokens, columns], broadcasting over G at run time."""
    shape = [*x.shape[:-1], columns]
    return torch.onnx.ops.symbolic("MatMul", [x, factor], {}, dtype=x.dtype, shape=shape)


def install(model: nn.Module, kind: Callable[[nn.Module, str], AnySocket]) -> list[AnySocket]:
    """Replaces every linear layer of `model` that is called, except its output head, by a socket. Returns them in module order.

    Layers that compute something else in their `forward`, such as the routers of Phi's experts, stay as they are.
    """
    head = model.get_output_embeddings()
    sockets: list[AnySocket] = []
    for name, layer in list(model.named_modules()):
        plain = type(layer).forward in (nn.Linear.forward, Conv1D.forward) and not hasattr(layer, READ)
        if plain and isinstance(layer, nn.Linear | Conv1D) and layer is not head:
            parent, _, leaf = name.rpartition(".")
            socket = kind(layer, name)
            setattr(model.get_submodule(parent), leaf, socket)
            sockets.append(socket)
    return sockets


class Described(Protocol):
    """A linear layer that takes an adapter."""

    name: str
    in_features: int
    out_features: int


def describe(sockets: Sequence[Described]) -> tuple[signature.Socket, ...]:
    """The sockets in the form of the bundle's signature."""
    return tuple(
        signature.Socket(name=s.name, in_features=s.in_features, out_features=s.out_features) for s in sockets
    )
