"""The torch tools of the three proofs: low-rank factors, random or from peft, and hooks that add them.

The proof of each kind, its folder's prove.py, is independent; they share only these tools.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ptune.backbone.weight_shapes import shapes_alone
from ptune.engine.adapters.fold.table import is_initialised, method_of
from ptune.engine.adapters.peft_config import PEFT_PREFIX
from ptune.engine.adapters.safetensors import read_tensors
from ptune.engine.adapters.source import CONFIG, WEIGHTS
from ptune.errors import AdapterError, in_one_line
from ptune.formats.seq2seq import Seq2SeqSignature
from ptune.formats.signature import EncoderSignature, Signature, Socket
from ptune.formats.whole_write import read_json

Pair = tuple[NDArray[np.float32], NDArray[np.float32]]
Factors = Mapping[str, Pair]
"""Socket -> A, B, with B scaled. Of a linear layer A [in, r], B [r, out]; of a convolution [r, in, kh, kw], [out, r, 1, 1]."""

RANDOM_RANK, RANDOM_SEED, RANDOM_SCALE = 4, 0, 0.05


def random_factors(
    signature: Signature | EncoderSignature | Seq2SeqSignature,
    rank: int = RANDOM_RANK,
    seed: int = RANDOM_SEED,
    scale: float = RANDOM_SCALE,
) -> Factors:
    """Random factors for every socket: a socket that ignores them shows up in the outputs.

    A has columns of about unit length, so an update moves a layer's output by about `scale` of its input.
    """
    random = np.random.default_rng(seed)

    def pair(socket: Socket) -> Pair:
        a, b = padded(socket, None, rank)
        inner = a.size // rank
        return (
            (random.standard_normal(a.shape) / np.sqrt(inner)).astype(np.float32),
            (random.standard_normal(b.shape) * scale / np.sqrt(rank)).astype(np.float32),
        )

    return {socket.name: pair(socket) for socket in signature.sockets}


def padded(socket: Socket, pair: Pair | None, rank: int) -> Pair:
    """A socket's factors zero-padded to `rank`; all zeros if it has none."""
    if socket.kernel is None:
        a = np.zeros((socket.in_features, rank), np.float32)
        b = np.zeros((rank, socket.out_features), np.float32)
    else:
        a = np.zeros((rank, socket.in_features, *socket.kernel), np.float32)
        b = np.zeros((socket.out_features, rank, 1, 1), np.float32)
    if pair is not None:
        for whole, part in zip((a, b), pair, strict=True):
            whole[tuple(slice(size) for size in part.shape)] = part
    return a, b


def _add(down: Tensor, up: Tensor, layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    if isinstance(layer, nn.Conv2d):
        low = F.conv2d(inputs[0], down, None, layer.stride, layer.padding, layer.dilation)
        return output + F.conv2d(low, up)
    return output + inputs[0] @ down @ up


@contextmanager
def plugged(model: nn.Module, factors: Factors) -> Iterator[None]:
    """Adds low-rank updates to layers of a plain model by forward hooks, independently of peft and sockets."""
    with ExitStack() as stack:
        for name, pair in factors.items():
            layer = model.get_submodule(name)
            assert isinstance(layer, nn.Linear | nn.Conv2d | Conv1D)
            with shapes_alone():
                weight = layer.weight
            down, up = (torch.from_numpy(half).to(device=weight.device, dtype=weight.dtype) for half in pair)
            stack.callback(layer.register_forward_hook(partial(_add, down, up)).remove)
        yield


def adapted(model: PreTrainedModel, folder: Path) -> PeftModel:
    """Loads an adapter onto the model with peft. Do not use `model` on its own afterwards.

    Raises: AdapterError if peft rejects it.
    """
    try:
        with shapes_alone(_is_plain(folder)):
            return PeftModel.from_pretrained(model, str(folder)).eval()
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        reason = in_one_line(error)
        raise AdapterError(f"peft cannot load {folder}: {reason}") from error


def _is_plain(adapter: Path) -> bool:
    """Whether peft needs no number of the base to load a folder: that of LoRA, with nothing begun from the base's weights."""
    return (adapter / CONFIG).is_file() and method_of(read_json(adapter / CONFIG))[0] == "LORA"


@contextmanager
def base_kept(model: nn.Module, adapter: Path) -> Iterator[None]:
    """Within the block peft may load a folder onto a plain model, and take parts of its weights out, as PiSSA begins: of copies."""
    before: dict[str, nn.Module] = {}
    try:
        for name in _changed_layers(adapter):
            before[name] = model.get_submodule(name)
            model.set_submodule(name, _copied(before[name]))
        yield
    finally:
        for name, layer in before.items():
            model.set_submodule(name, layer)


def _changed_layers(adapter: Path) -> list[str]:
    """The layers whose weights peft changes when it loads a folder."""
    if not is_initialised(read_json(adapter / CONFIG)):
        return []
    names = (name.removeprefix(PEFT_PREFIX) for name in read_tensors(adapter / WEIGHTS))
    return [name.removesuffix(".lora_A.weight") for name in names if name.endswith(".lora_A.weight")]


def _copied(layer: nn.Module) -> nn.Module:
    assert isinstance(layer, nn.Linear | Conv1D)
    rows, columns = layer.weight.shape
    copy = Conv1D(columns, rows) if isinstance(layer, Conv1D) else nn.Linear(columns, rows)
    copy.weight = nn.Parameter(layer.weight.detach().clone(), requires_grad=False)
    copy.bias = layer.bias
    return copy


def lora_layers(
    model: PeftModel, prefix: str = "", sockets: Collection[str] | None = None
) -> dict[str, LoraLayer]:
    """peft's layers of the active adapter, by their name in the base without `prefix`; only those in `sockets` if given."""
    layers = {
        name.removeprefix(prefix): layer
        for name, layer in model.get_base_model().named_modules()
        if isinstance(layer, LoraLayer) and model.active_adapter in layer.lora_A
    }
    return layers if sockets is None else {name: layers[name] for name in layers if name in sockets}


@contextmanager
def biases_kept(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Yields the biases of a plain model by their names, and restores them: peft overwrites them by an adapter's own."""
    before = {name: one.detach().clone() for name, one in model.named_parameters() if name.endswith(".bias")}
    try:
        yield before
    finally:
        with torch.no_grad():
            for name, one in model.named_parameters():
                if name in before:
                    one.copy_(before[name])


def with_peft_biases(
    factors: Factors, model: PeftModel, before: Mapping[str, Tensor], sockets: Iterable[Socket]
) -> Factors:
    """Factors of a decoder's adapter with its biases as their first rank, from peft's layers; as they are where it has none.

    before: the base's biases, without the adapter's.
    """
    adapter, rows = str(model.active_adapter), dict[str, Tensor]()
    known = {socket.name: socket for socket in sockets}
    for name in known:
        layer = model.get_base_model().get_submodule(name)
        if isinstance(layer, LoraLayer) and layer.lora_bias.get(adapter):
            rows[name] = layer.lora_B[adapter].bias.detach() * layer.scaling[adapter]
        if f"{name}.bias" in before and (moved := layer.bias.detach() - before[f"{name}.bias"]).any():
            rows[name] = rows.get(name, torch.zeros_like(moved)) + moved
    if not rows:
        return factors
    joined: dict[str, Pair] = {}
    for name in {*factors, *rows}:
        a, b = factors.get(name) or padded(known[name], None, 0)
        row = rows[name].float().cpu().numpy() if name in rows else np.zeros(b.shape[1], np.float32)
        joined[name] = np.hstack([np.zeros((len(a), 1), np.float32), a]), np.vstack([row[None], b])
    return joined


def peft_factors(layers: Mapping[str, LoraLayer], adapter: str) -> Factors:
    """An adapter's factors from peft's layers, B times its scaling."""
    factors: dict[str, Pair] = {}
    for name, layer in layers.items():
        a, b = (side[adapter].weight.detach().float() for side in (layer.lora_A, layer.lora_B))
        b = b * layer.scaling[adapter]
        if a.ndim == 2:
            a, b = a.T, b.T
        factors[name] = a.contiguous().cpu().numpy(), b.contiguous().cpu().numpy()
    return factors
