"""Experts of a mixture whose weights lie in few bytes: nf4, int8, MXFP4 as gpt-oss is published, or the 16 bits of a model that computes in float32.

transformers holds all experts of a layer in two weights [experts, …]. Here such a weight is bytes [experts, bytes of one], with
its scales as weights beside it: plain tensors that are saved, hashed, read back and moved like any other. The layer computes
expert by expert over the rows of the tokens that chose it. An expert's weights are unpacked for its product, dropped, and
unpacked again for the gradient, so memory holds those of one. Gates, biases and norms are the family's own code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from bitsandbytes.functional import (
    QuantState,
    create_dynamic_map,
    dequantize_4bit,
    int8_vectorwise_quant,
)
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from ptune.backbone.nf4_bytes import BLOCK, NESTED_BLOCK, nf4_bytes
from ptune.backbone.packed import mxfp4

Packing = Literal["nf4", "int8", "mxfp4", "bfloat16", "float16"]

WEIGHTS = ("gate_up_proj", "up_proj", "down_proj")
SCALES, NESTED = "_scales", "_nested"  # endings of the weights beside them
_DYNAMIC: Tensor = create_dynamic_map()  # bitsandbytes' code book of nested scales
_FLOATS = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class PackedExperts:
    """What a class of transformers' experts becomes; see `pack_experts`."""

    packing: Packing
    shapes: dict[str, tuple[int, int, int]]  # of each weight: [experts, out, in]
    on_packed: Callable[[nn.Parameter], None] | None = None  # called with the bytes of each weight

    def __setattr__(self: Any, name: str, value: Any) -> None:
        """Packs a weight when it is set, as `from_pretrained` does when it has read one."""
        if name in WEIGHTS and isinstance(value, Tensor) and value.is_floating_point() and not value.is_meta:
            self.pack(name, value.data)
        else:
            super().__setattr__(name, value)

    def pack(self: Any, name: str, weight: Tensor) -> None:
        """Packs a weight as transformers has it, an expert at a time, on the CPU."""
        experts, whole = len(weight), dict[str, Tensor]()
        if self.packing in _FLOATS:  # as they lie
            whole, weight = {"": _bytes(weight).view(experts, -1)}, weight[:0]
        for number, one in enumerate(weight.transpose(1, 2) if self.is_transposed else weight):
            for ending, part in _PACK[self.packing](one).items():
                if number == 0:
                    whole[ending] = torch.empty((experts, *part.shape), dtype=part.dtype)
                whole[ending][number] = part
        for ending, tensor in whole.items():
            held = nn.Parameter(tensor, requires_grad=False)
            held._is_hf_initialized = True  # or transformers would fill it with random numbers
            super().__setattr__(f"{name}{ending}", held)
        if self.on_packed is not None:
            self.on_packed(getattr(self, name))

    def unpacked(self: Any, name: str, number: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """An expert's weight [out, in], computed in float32 and rounded to `dtype`."""
        _, rows, columns = self.shapes[name]
        packed = getattr(self, name)[number]
        if self.packing in _FLOATS:
            one = packed.view(_FLOATS[self.packing]).to(dtype)
            return one.view(columns, rows).T if self.is_transposed else one.view(rows, columns)
        scales = getattr(self, f"{name}{SCALES}")[number]
        if self.packing == "mxfp4":
            return mxfp4.values(packed, scales).to(dtype)
        if self.packing == "int8":
            return _unpack_int8(packed, scales, dtype)
        return _unpack_nf4(packed, scales, getattr(self, f"{name}{NESTED}")[number], (rows, columns), dtype)

    def as_published(self: Any, name: str, number: int) -> Tensor:
        """The same in float32, turned as in transformers."""
        weight = self.unpacked(name, number)
        return weight.T if self.is_transposed else weight

    def forward(self: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """hidden_states [tokens, hidden], top_k_index and top_k_weights [tokens, k] -> [tokens, hidden]"""
        inner = "gate_up_proj" if self.has_gate else "up_proj"
        experts, chosen = self.shapes[inner][0], top_k_index.shape[-1]
        order = torch.argsort(top_k_index.reshape(-1), stable=True)
        pieces = hidden_states[order // chosen].split(_rows(top_k_index, experts))
        made = [self._expert(number, inner, rows) for number, rows in enumerate(pieces) if len(rows)]
        if not made:
            return torch.zeros_like(hidden_states)
        out = torch.cat(made)[torch.argsort(order)].view(*top_k_index.shape, -1)
        return (out * top_k_weights.unsqueeze(-1)).sum(dim=1).to(hidden_states.dtype)

    def _expert(self: Any, number: int, inner: str, rows: Tensor) -> Tensor:
        between = self._product(rows, inner, number)
        between = self._apply_gate(between) if self.has_gate else self.act_fn(between)
        out: Tensor = self._product(between, "down_proj", number)
        return self.post_expert_norm(out) if self.has_post_expert_norm else out

    def _product(self: Any, rows: Tensor, name: str, number: int) -> Tensor:
        product: Tensor = _Product.apply(rows, self, name, number)
        return product + getattr(self, f"{name}_bias")[number].to(product.dtype) if self.has_bias else product


class _Product(torch.autograd.Function):
    """x W^T. Weights are unpacked anew for the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: PackedExperts, name: str, number: int) -> Tensor:
        ctx.of = layer, name, number
        return F.linear(x, layer.unpacked(name, number, x.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (layer, name, number) = gradients, ctx.of
        of_x = gradient @ layer.unpacked(name, number, gradient.dtype) if ctx.needs_input_grad[0] else None
        return of_x, None, None, None


def experts_of(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules that hold the experts of a layer in weights of three dimensions, by name."""
    for name, module in model.named_modules():
        if isinstance(module, PackedExperts) or (hasattr(module, "is_transposed") and weights_of(module)):
            yield name, module


def weights_of(module: nn.Module) -> list[str]:
    """Which weights of the experts a module has that can be packed."""
    found = {name: module._parameters.get(name) for name in WEIGHTS}
    return [name for name, one in found.items() if one is not None and one.ndim == 3]


def packed_experts(model: nn.Module) -> dict[str, tuple[Any, str]]:
    """Those whose weights are packed: the module and the weight, by the weight's name in the state dict."""
    return {
        f"{name}.{weight}": (module, weight)
        for name, module in model.named_modules()
        if isinstance(module, PackedExperts)
        for weight in module.shapes
    }


def counts_of_packed(model: nn.Module) -> dict[int, int]:
    """How many weights each parameter of packed experts stands for, by its id; scales stand for none."""
    found = dict[int, int]()
    for module, name in packed_experts(model).values():
        parameters = module._parameters
        found |= {
            id(parameters[f"{name}{ending}"]): 0
            for ending in (SCALES, NESTED)
            if f"{name}{ending}" in parameters
        }
        found[id(parameters[name])] = math.prod(module.shapes[name])
    return found


def pack_experts(
    module: nn.Module, packing: Packing, on_packed: Callable[[nn.Parameter], None] | None = None
) -> None:
    """Has a module of experts pack its weights: those it has, or as they are read. In place."""
    weights = _become_packed(module, packing)
    module.on_packed = on_packed
    for name, weight in weights.items():
        setattr(module, name, weight)


def prepare_packed(module: nn.Module, packing: Packing) -> None:
    """Gives a module of experts weights of the shapes and types of packed ones, without values; in place."""
    for name in _become_packed(module, packing):
        experts, *shape = module.shapes[name]
        for ending, (size, kind) in _packed_sizes(packing, *shape).items():
            empty = torch.empty((experts, *size), dtype=kind, device="meta")
            module._parameters[f"{name}{ending}"] = nn.Parameter(empty, requires_grad=False)


def _become_packed(module: Any, packing: Packing) -> dict[str, nn.Parameter]:
    """Gives a module its other class; returns the weights that it has."""
    weights = {name: module._parameters[name] for name in weights_of(module)}
    module.__class__ = _packed_class(module)
    module.packing = packing
    module.shapes = {}
    for name, weight in weights.items():
        experts, rows, columns = weight.shape
        module.shapes[name] = (experts, columns, rows) if module.is_transposed else (experts, rows, columns)
    return weights


def _packed_sizes(
    packing: Packing, rows: int, columns: int
) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and type of what an expert's weight [rows, columns] becomes."""
    if packing == "mxfp4":
        in_row = columns // mxfp4.BLOCK
        return {
            "": ((rows, in_row, mxfp4.BLOCK // 2), torch.uint8),
            SCALES: ((rows, in_row), torch.uint8),
        }
    if packing == "int8":
        return {"": ((rows, columns), torch.int8), SCALES: ((4 * rows,), torch.uint8)}
    blocks = -(-rows * columns // BLOCK)
    nested = 4 * (-(-blocks // NESTED_BLOCK) + 1)
    sizes = {"": -(-rows * columns // 2), SCALES: blocks, NESTED: nested}
    return {ending: ((size,), torch.uint8) for ending, size in sizes.items()}


def make_plain(module: Any) -> None:
    """Gives packed experts float32 weights of their own, and transformers' class; in place."""
    wholes = {}
    for name, (experts, *_) in module.shapes.items():
        wholes[name] = torch.stack([module.as_published(name, number) for number in range(experts)])
        for ending in (SCALES, NESTED):
            module._parameters.pop(f"{name}{ending}", None)
    module.__class__ = type(module).__mro__[2]
    for name, whole in wholes.items():
        setattr(module, name, nn.Parameter(whole, requires_grad=False))


_packed_classes: dict[type, type] = {}


def _packed_class(module: nn.Module) -> type:
    """The class of a module's kind with packed experts, the same for all modules of the kind."""
    kind = type(module)
    if kind not in _packed_classes:
        own = {"__module__": kind.__module__}
        _packed_classes[kind] = type(kind.__name__, (PackedExperts, kind), own)
    return _packed_classes[kind]


def _rows(top_k_index: Tensor, experts: int) -> list[int]:
    """The number of rows of each expert; where a plan follows a step on shapes, all the same."""
    if isinstance(top_k_index, FakeTensor):
        share, rest = divmod(top_k_index.numel(), experts)
        return [share + (number < rest) for number in range(experts)]
    counts: list[int] = torch.bincount(top_k_index.reshape(-1), minlength=experts).tolist()
    return counts


def _bytes(tensor: Tensor) -> Tensor:
    """A tensor's bytes: as bytes, floats of scales keep their type when a model's type is changed."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _pack_nf4(weight: Tensor) -> dict[str, Tensor]:
    packed, state = nf4_bytes(weight)
    nested = torch.cat([state.state2.absmax, state.offset.reshape(1)])
    return {"": packed.reshape(-1), SCALES: state.absmax, NESTED: _bytes(nested)}


def _unpack_nf4(
    packed: Tensor, scales: Tensor, nested: Tensor, shape: tuple[int, ...], dtype: torch.dtype
) -> Tensor:
    floats = nested.view(torch.float32)
    inner = QuantState(
        floats[:-1], code=_DYNAMIC.to(packed.device), blocksize=NESTED_BLOCK, dtype=torch.float32
    )
    state = QuantState(scales, torch.Size(shape), None, BLOCK, "nf4", dtype, offset=floats[-1], state2=inner)
    weight: Tensor = dequantize_4bit(packed.reshape(-1, 1), state)
    return weight


def _pack_int8(weight: Tensor) -> dict[str, Tensor]:
    packed, scales, _ = int8_vectorwise_quant(weight.to(torch.float16))
    return {"": packed, SCALES: _bytes(scales)}


def _unpack_int8(packed: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    return packed.to(dtype).mul_((scales.view(torch.float32) * (1.0 / 127.0)).unsqueeze(1))


_PACK: dict[Packing, Callable[[Tensor], dict[str, Tensor]]] = {"nf4": _pack_nf4, "int8": _pack_int8}
