"""The reference: transformers and peft, in float32, on the base as it was trained on (dequantised)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ptune.parity import Array, log_softmax
from ptune.verify.graph import Factors


@dataclass(frozen=True)
class Probe:
    """A held-out prompt with its answer, and the positions at which distributions are compared."""

    ids: tuple[int, ...]
    wanted: tuple[int, ...]
    prompt_tokens: int  # how many of `ids` come before the answer


@torch.no_grad()
def logprobs(model: nn.Module, probes: Sequence[Probe]) -> list[Array]:
    """Log-probabilities [len(wanted), vocab] of each probe, one sequence at a time, in evaluation mode."""
    model.eval()
    found = []
    for probe in probes:
        ids = torch.tensor([probe.ids], device=next(model.parameters()).device)
        logits = model(input_ids=ids, use_cache=False).logits[0, list(probe.wanted)]
        found.append(log_softmax(logits.float().cpu().numpy()))
    return found


def _add(down: Tensor, up: Tensor, _: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    return output + inputs[0] @ down @ up


@contextmanager
def plugged(model: nn.Module, factors: Factors) -> Iterator[None]:
    """Adds low-rank updates to linear layers of a plain model by forward hooks: independent of peft and of sockets."""
    hooks = []
    for name, (a, b) in factors.items():
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Linear | Conv1D)
        weight = layer.weight
        down, up = (torch.from_numpy(f).to(device=weight.device, dtype=weight.dtype) for f in (a, b))

        hooks.append(layer.register_forward_hook(partial(_add, down, up)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
