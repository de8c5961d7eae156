"""The reference: transformers and peft, in float32, on the base that was trained on (dequantised)."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from peft import PeftModel
from torch import Tensor, nn

from ptune.parity import Array, log_softmax


@dataclass(frozen=True)
class Probe:
    """A held-out prompt with its answer, and the positions to compare distributions at."""

    ids: tuple[int, ...]
    wanted: tuple[int, ...]
    prompt_tokens: int  # how many of `ids` come before the answer


@torch.no_grad()
def logprobs(model: nn.Module, probes: Sequence[Probe]) -> list[Array]:
    """Log-probabilities [len(wanted), vocab] of each probe, one sequence at a time, in evaluation mode."""
    model.eval()
    measured = []
    for probe in probes:
        logits = logits_at(model, probe.ids, probe.wanted)
        measured.append(log_softmax(logits.float().cpu().numpy()))
    return measured


def logits_at(model: nn.Module, ids: Sequence[int], positions: Sequence[int]) -> Tensor:
    """Logits [len(positions), vocab] of one sequence. A model that can leave out the others does not compute them."""
    device = next(model.parameters()).device
    sequence, kept = torch.tensor([ids], device=device), torch.tensor(positions, device=device)
    plain = model.get_base_model() if isinstance(model, PeftModel) else model
    if "logits_to_keep" in inspect.signature(plain.forward).parameters:
        return model(input_ids=sequence, use_cache=False, logits_to_keep=kept).logits[0]
    return model(input_ids=sequence, use_cache=False).logits[0, kept]
