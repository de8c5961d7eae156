"""The first hop: compares the weights read back from disk with those that were trained."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from peft import PeftModel, load_peft_weights, set_peft_model_state_dict
from torch import nn

from ptune.backbone.streaming import beside_activations
from ptune.codecs.chat import Example
from ptune.formats.bundle import Hop
from ptune.parity import compare
from ptune.training.loss.next_token import NextTokenObjective

NAME = "trained → reloaded"
PROMPTS = 16
LIMIT = 1e-5  # the same kernels on the same weights: anything but 0 is a fault
# Most logits compared per prompt: those of all its targets could take more memory than training.
_MOST_LOGITS = 2**20
_RELOADED = "reloaded"


def reloaded_adapter_hop(
    model: PeftModel, adapter: Path, examples: Sequence[Example], device: torch.device
) -> Hop:
    """Loads `adapter` a second time into the live model and compares the two on held-out examples."""
    if model.active_peft_config.peft_type == "TRAINABLE_TOKENS":
        return _read_in_place_hop(model, adapter, examples, device)
    live = model.active_adapter
    model.load_adapter(str(adapter), adapter_name=_RELOADED)
    beside_activations(model, device)

    def compared() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for example in examples[:PROMPTS]:
            model.set_adapter(live)
            trained = log_probabilities(model, example, device)
            model.set_adapter(_RELOADED)
            yield trained, log_probabilities(model, example, device)

    try:
        return hop(compared())
    finally:
        model.set_adapter(live)
        model.delete_adapter(_RELOADED)


def _read_in_place_hop(
    model: PeftModel, adapter: Path, examples: Sequence[Example], device: torch.device
) -> Hop:
    """The same for rows of tokens, of which peft keeps one adapter where the head is tied to the embedding.

    What was trained is erased before the file is read, so that nothing of it can stand in for what the file lacks.
    """
    trained = [log_probabilities(model, example, device) for example in examples[:PROMPTS]]
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.zero_()
    set_peft_model_state_dict(
        model, load_peft_weights(str(adapter), device=str(device)), model.active_adapter
    )
    return hop(
        (before, log_probabilities(model, example, device))
        for before, example in zip(trained, examples, strict=False)
    )


def reloaded_model_hop(
    model: nn.Module, again: nn.Module, examples: Sequence[Example], device: torch.device
) -> Hop:
    """Compares the live model with a second one that was loaded from disk."""
    return hop(
        (log_probabilities(model, example, device), log_probabilities(again, example, device))
        for example in examples[:PROMPTS]
    )


@torch.no_grad()
def log_probabilities(model: nn.Module, example: Example, device: torch.device) -> torch.Tensor:
    """Log-probabilities [targets, vocab] of the first targets of one example, in float64."""
    model.eval()
    objective = NextTokenObjective(packed=False, max_tokens=len(example.ids), device=device)
    (batch,) = objective.batches([example])
    rows = max(1, _MOST_LOGITS // model.config.get_text_config().vocab_size)
    batch = dataclasses.replace(batch, predict_at=batch.predict_at[:rows], labels=batch.labels[:rows])
    return F.log_softmax(objective.logits(model, batch).double(), dim=-1)


def hop(compared: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Hop:
    """The hop over pairs of log-probabilities, as trained and as reloaded."""
    first, second = itertools.tee(compared)
    trained = (side.cpu().numpy() for side, _ in first)
    reloaded = (side.cpu().numpy() for _, side in second)
    return compare(NAME, trained, reloaded, max_abs_logprob=LIMIT)
