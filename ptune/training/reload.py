"""The first hop: what was written to disk against what was trained, in numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import nn

from ptune.codecs.chat import Example
from ptune.formats.bundle import Hop
from ptune.parity import compare
from ptune.tasks.chat.train import ChatObjective

NAME = "trained → reloaded"
PROMPTS = 16
LIMIT = 1e-5  # the same kernels on the same weights: anything but 0 is a fault
_RELOADED = "reloaded"


def reloaded_adapter_hop(
    model: PeftModel, adapter: Path, examples: Sequence[Example], device: torch.device
) -> Hop:
    """Loads `adapter` a second time into the live model and compares the two on held-out examples."""
    live = model.active_adapter
    model.load_adapter(str(adapter), adapter_name=_RELOADED)
    try:
        compared = []
        for example in examples[:PROMPTS]:
            model.set_adapter(live)
            trained = log_probabilities(model, example, device)
            model.set_adapter(_RELOADED)
            compared.append((trained, log_probabilities(model, example, device)))
    finally:
        model.set_adapter(live)
        model.delete_adapter(_RELOADED)
    return hop(compared)


def reloaded_model_hop(
    model: nn.Module, again: nn.Module, examples: Sequence[Example], device: torch.device
) -> Hop:
    """Compares the live model with a second one that was loaded from disk."""
    compared = [
        (log_probabilities(model, example, device), log_probabilities(again, example, device))
        for example in examples[:PROMPTS]
    ]
    return hop(compared)


@torch.no_grad()
def log_probabilities(model: nn.Module, example: Example, device: torch.device) -> torch.Tensor:
    """[targets, vocab] in float64, in front of each target of one example."""
    model.eval()
    objective = ChatObjective(packed=False, max_tokens=len(example.ids), device=device)
    (batch,) = objective.batches([example])
    return F.log_softmax(objective.logits(model, batch).double(), dim=-1)


def hop(compared: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> Hop:
    """Log-probabilities of each prompt, as trained and as reloaded."""
    trained, reloaded = ([side.cpu().numpy() for side in sides] for sides in zip(*compared, strict=True))
    return compare(NAME, trained, reloaded, max_abs_logprob=LIMIT)
