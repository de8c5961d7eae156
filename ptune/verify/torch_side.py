"""The reference: transformers and peft, in float32, on the base that was trained on (dequantised)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

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
        ids = torch.tensor([probe.ids], device=next(model.parameters()).device)
        logits = model(input_ids=ids, use_cache=False).logits[0, list(probe.wanted)]
        measured.append(log_softmax(logits.float().cpu().numpy()))
    return measured
