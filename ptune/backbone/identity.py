"""The identity of the weights that an adapter was trained on: a hash over their bytes and quantisation state."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

import torch
from torch import nn

from ptune.backbone.rope import EXTENDED
from ptune.progress import Progress


def weights_hash(model: nn.Module, leave_out: Collection[str] = ()) -> str:
    """SHA-256 over name, type, shape and bytes of every weight, in order of the names.

    bitsandbytes layers contribute their packed bytes and their scales, nested scales and code book, as they save them.
    `leave_out` names modules that are not pretrained, such as a new head.
    Rotary frequencies for longer sequences than the model was pretrained at (`ptune.backbone.rope`) count, too.
    A tied weight counts once, under the first of its names. The same weights give the same hash in every process and
    on every device.
    """
    state = model.state_dict(keep_vars=True)
    digest = hashlib.sha256()
    seen: set[int] = set()
    left_out = tuple(f"{module}." for module in leave_out)
    if (extended := getattr(getattr(model, "config", None), EXTENDED, None)) is not None:
        digest.update(f"{EXTENDED} {extended}\0".encode())
    with Progress("hashing the weights", len(state), unit="tensors") as progress:
        for name in sorted(state):
            if name.startswith(left_out):
                continue
            tensor = state[name]
            if isinstance(tensor, nn.Parameter):  # with keep_vars a tied weight is one and the same object
                if id(tensor) in seen:
                    continue
                seen.add(id(tensor))
            digest.update(f"{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
            digest.update(_bytes(tensor))
            progress.advance()
    return digest.hexdigest()


def _bytes(tensor: torch.Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy())
