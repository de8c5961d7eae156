"""Loss, perplexity and token accuracy of a model on examples."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from transformers import PreTrainedModel

from ptune.codecs.chat import Example
from ptune.progress import Progress
from ptune.training.loss.head import plain_head
from ptune.training.loss.next_token import NextTokenObjective
from ptune.training.rows.segments import packing
from ptune.training.rows.virtual_tokens import one_text_a_row

Figures = dict[str, float | int]


@torch.no_grad()
def figures(
    label: str,
    model: torch.nn.Module,
    backbone: PreTrainedModel,
    examples: Sequence[Example],
    max_tokens: int,
) -> Figures:
    """Measures `model` in evaluation mode on all targets of `examples`. backbone: the transformers model inside it."""
    model.eval()
    loss, correct, targets = 0.0, 0, 0
    with (
        objective_of(model, backbone, max_tokens) as objective,
        Progress(label, len(examples), unit="examples") as progress,
    ):
        for batch in objective.batches(examples):
            score = objective.score(model, batch)
            loss, correct, targets = (
                loss + float(score.loss),
                correct + int(score.correct),
                targets + int(score.targets),
            )
            progress.advance(len(batch.lengths))
    return summed(loss, correct, targets)


@contextmanager
def objective_of(
    model: torch.nn.Module, backbone: PreTrainedModel, max_tokens: int
) -> Iterator[NextTokenObjective]:
    """What measures `model` within the block. backbone: the transformers model inside it."""
    with nullcontext(False) if one_text_a_row(model) else packing(backbone) as packed:
        yield NextTokenObjective(packed, max_tokens, backbone.device, plain_head(backbone))


def summed(loss: float, correct: int, targets: int) -> Figures:
    """Figures from sums over targets."""
    mean = loss / targets
    return {
        "loss": mean,
        "perplexity": math.exp(min(mean, 700.0)),
        "token_accuracy": correct / targets,
        "targets": targets,
    }
