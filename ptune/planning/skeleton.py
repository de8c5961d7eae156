"""A model of any size as shapes only, with quantised layers and adapter, on which a training step can run.

It is built on the meta device, where transformers and peft work as on a real model. Its parameters are then replaced by
fake tensors, which claim to be on the CPU.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import init_empty_weights
from bitsandbytes.functional import QuantState
from bitsandbytes.nn import Int8Params, Linear4bit, Linear8bitLt, Params4bit
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from ptune.backbone.nf4_bytes import BLOCK, NESTED_BLOCK
from ptune.backbone.packed.described import packing_of
from ptune.backbone.packed.formats import BY_METHOD
from ptune.backbone.packed.linear import PackedLinear
from ptune.backbone.packed_experts import PackedExperts, counts_of_packed, experts_of, prepare_packed
from ptune.backbone.quantize import Int8Linear, Nf4Linear
from ptune.config.recipe import Backbone, Recipe
from ptune.errors import RecipeError
from ptune.methods.peft_method import PeftMethod
from ptune.planning import experts_on_shapes
from ptune.planning.peft_on_shapes import peft_on_shapes
from ptune.training.preparation import applied
from ptune.training.rows import segments
from ptune.training.rows.virtual_tokens import one_text_a_row


@dataclass(frozen=True)
class Skeleton:
    """A model that is ready for training but has no weights."""

    model: nn.Module  # with the method applied
    backbone: PreTrainedModel
    dtype: torch.dtype  # type of unquantised weights
    sizes: tuple[int, ...]  # number of elements of each backbone weight, before quantisation
    mode: FakeTensorMode  # the mode that its tensors belong to
    packed: bool
    head: nn.Linear | None  # see ptune.training.loss.head
    quantisation: tuple[torch.Tensor, ...]  # scales, code books and offsets of quantised layers

    @property
    def largest_quantised(self) -> int:
        """Number of weights in the largest quantised layer; 0 where there is none. Experts that are stored in MXFP4 are mapped as they are:
        beside them it is that of the largest other weight."""
        if any(isinstance(one, PackedExperts) and one.packing == "mxfp4" for one in self.backbone.modules()):
            return max(one.numel() for one in self.backbone.parameters() if one.is_floating_point())
        kinds = Nf4Linear | Int8Linear | PackedLinear
        layers = [one for one in self.backbone.modules() if isinstance(one, kinds)]
        experts = counts_of_packed(self.backbone).values()
        return max([*(layer.in_features * layer.out_features for layer in layers), *experts], default=0)


def skeleton(config: PretrainedConfig, recipe: Recipe, dtype: torch.dtype) -> Skeleton:
    """The model that `recipe` would train on the backbone described by `config`, with unquantised weights in `dtype`."""
    config = copy.deepcopy(config)  # a model writes its attention into the config
    config._experts_implementation = experts_on_shapes.NAME
    with init_empty_weights(include_buffers=False):
        backbone = AutoModelForCausalLM.from_config(
            config, dtype=dtype, trust_remote_code=recipe.backbone.trust_remote_code
        )
    backbone.tie_weights()
    sizes = tuple(parameter.numel() for parameter in backbone.parameters())
    if recipe.backbone.quantize != "none":
        _quantize(backbone, recipe.backbone)
    backbone.requires_grad_(False)
    if isinstance(recipe.method, PeftMethod) and (what := recipe.method.unforeseen):
        raise RecipeError(
            f"{what}: its memory cannot be predicted, as its step depends on the values of weights or of texts, which a plan does"
            " not read"
        )
    with _generator_kept(), peft_on_shapes():
        model = applied(recipe, backbone)
    packed = segments.routable(backbone) and not one_text_a_row(model)
    if packed:
        backbone.set_attn_implementation(segments.NAME if recipe.train.fast else segments.PLAIN_NAME)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode, peft_on_shapes():
        quantisation = _become_fake(model, dtype)
        head = _plain_head(backbone, packed)
    return Skeleton(model, backbone, dtype, sizes, mode, packed, head, quantisation)


def _quantize(model: PreTrainedModel, spec: Backbone) -> None:
    """What loading makes of linear layers, on shapes only."""
    head, kind = model.get_output_embeddings(), spec.quantize
    packing = packing_of(spec) if kind in BY_METHOD else None
    for name, layer in list(model.named_modules()):
        if type(layer) is not nn.Linear or layer is head:
            continue
        if packing is None:
            model.set_submodule(name, _nf4(layer) if kind == "nf4" else _int8(layer))
        elif packing.keeps(name):
            model.set_submodule(name, packing.without_values(name, layer))
    for _, experts in list(experts_of(model)):
        if kind in ("nf4", "int8", "mxfp4"):
            prepare_packed(experts, kind)
    model.is_loaded_in_4bit, model.is_loaded_in_8bit = kind == "nf4", kind == "int8"


def _nf4(plain: nn.Linear) -> Nf4Linear:
    layer = Nf4Linear.__new__(Nf4Linear)
    has_bias = plain.bias is not None
    Linear4bit.__init__(
        layer, plain.in_features, plain.out_features, has_bias, quant_type="nf4", device="meta"
    )
    packed = torch.empty((plain.weight.numel() + 1) // 2, 1, dtype=torch.uint8, device="meta")
    layer.weight = Params4bit(packed, requires_grad=False, quant_type="nf4", module=layer, bnb_quantized=True)
    layer.bias = plain.bias
    return layer


def _int8(plain: nn.Linear) -> Int8Linear:
    layer = Int8Linear.__new__(Int8Linear)
    has_bias = plain.bias is not None
    Linear8bitLt.__init__(
        layer, plain.in_features, plain.out_features, has_bias, has_fp16_weights=False, device="meta"
    )
    layer.weight = Int8Params(plain.weight.data.to(torch.int8), requires_grad=False)
    layer.bias = plain.bias
    return layer


def _become_fake(model: nn.Module, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Replaces every parameter by a fake tensor (shared ones by one); returns the other tensors of quantised layers."""
    fakes: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) not in fakes:
                empty = torch.empty(parameter.shape, dtype=parameter.dtype, device="cpu")
                fakes[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
            setattr(module, name, fakes[id(parameter)])
        for name, buffer in list(module.named_buffers(recurse=False)):
            if buffer.is_meta:  # a method's; those of the model have values
                fake = torch.empty(buffer.shape, dtype=buffer.dtype, device="cpu")
                # peft's dictionary of buffers shared by layers keeps them under its own names.
                module._buffers[name] = fake
    states: list[torch.Tensor] = []
    for module in model.modules():
        if isinstance(module, Nf4Linear):
            state = _state_of(module, dtype)
            module.weight.quant_state = state
            states += [state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code]
        elif isinstance(module, Int8Linear):
            module.weight.SCB = torch.empty(module.out_features)
            states.append(module.weight.SCB)
    return tuple(states)


def _state_of(layer: Nf4Linear, dtype: torch.dtype) -> QuantState:
    blocks = -(-layer.in_features * layer.out_features // BLOCK)
    nested = QuantState(
        absmax=torch.empty(-(-blocks // NESTED_BLOCK)),
        code=torch.empty(256),
        blocksize=NESTED_BLOCK,
        dtype=torch.float32,
    )
    return QuantState(
        absmax=torch.empty(blocks, dtype=torch.uint8),
        shape=torch.Size([layer.out_features, layer.in_features]),
        code=torch.empty(16),
        blocksize=BLOCK,
        quant_type="nf4",
        dtype=dtype,
        offset=torch.empty(()),
        state2=nested,
    )


@torch.no_grad()
def _plain_head(model: PreTrainedModel, packed: bool) -> nn.Linear | None:
    """The output head, as in ptune.training.loss.head, but outputs must be the same tensor: fake values cannot be compared."""
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear:
        return None
    caught: list[torch.Tensor] = []
    handle = head.register_forward_hook(lambda _module, _inputs, output: caught.append(output))
    ids = torch.zeros(1, 4, dtype=torch.long)
    try:
        with segments.segments([4]):
            logits = model(input_ids=ids, position_ids=torch.arange(4)[None], use_cache=False).logits
    finally:
        handle.remove()
    return head if len(caught) == 1 and caught[0] is logits else None


@contextlib.contextmanager
def _generator_kept() -> Iterator[None]:
    """Restores the random generator, which `applied` seeds for the adapter."""
    state: Any = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)
