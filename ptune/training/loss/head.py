"""Computes the loss inside the output head, a chunk of targets at a time, so that a batch's logits never exist as a whole.

Vocabularies are large (49,152 words in SmolLM2, 151,936 in Qwen3): the logits of a few hundred targets, their softmax and
their gradient would take more memory than the rest of a step. The head does this in its own `forward`, because that is
where sharded training (FSDP) has its whole weight.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import nn
from transformers import PreTrainedModel

from ptune.training.loss.chunked import each_loss, loss_and_correct
from ptune.training.loss.judged import Judge, judged_loss
from ptune.training.rows.segments import probing, segments


def plain_head(model: PreTrainedModel) -> nn.Linear | None:
    """The output head, if it is a plain linear layer whose outputs are the model's logits.

    None if the model changes them afterwards (Gemma 2's soft cap, Cohere's and Granite's scale), or if the head itself is
    adapted. Decided by running a short input once.
    """
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear:
        return None
    caught: list[torch.Tensor] = []
    handle = head.register_forward_hook(lambda _module, _inputs, output: caught.append(output))
    try:
        with probing(model), segments([4]):
            ids = torch.arange(3, 7, device=model.device)[None]
            written = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
            logits = model(ids, use_cache=False, **written).logits
    finally:
        handle.remove()
    return head if len(caught) == 1 and torch.equal(caught[0].to(logits.dtype), logits) else None


@contextlib.contextmanager
def replaced_by_loss(
    head: nn.Linear,
    labels: torch.Tensor,
    device: torch.device,
    smoothing: float = 0.0,
    factors: torch.Tensor | None = None,
    *,
    training: bool = True,
) -> Iterator[None]:
    """Within the block, `head` maps hidden states [1, targets, hidden] to their loss instead of their logits.

    It returns [1, 1, 2]: the sum of the cross-entropies of `labels` [targets], and the number of labels that are the most
    likely token (0 in training). device: see `chunked_loss.loss_and_correct`.
    smoothing, factors: see there; in training only, so that validation losses can be compared.
    """

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        if len(labels) == 0:
            return _nothing(head, hidden).expand(1, 1, 2)
        smooth, of = (smoothing, factors) if training else (0.0, None)
        sums = loss_and_correct(
            hidden[0],
            head.weight,
            head.bias,
            labels,
            device,
            count=not training,
            smoothing=smooth,
            factors=of,
        )
        return torch.stack(sums).view(1, 1, 2)

    with _replaced(head, forward):
        yield


@contextlib.contextmanager
def replaced_by_losses(head: nn.Linear, labels: torch.Tensor, device: torch.device) -> Iterator[None]:
    """Within the block, `head` maps hidden states [1, targets, hidden] to the loss of each of `labels`, [1, targets, 1]."""

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        if len(labels) == 0:
            return _nothing(head, hidden).expand(1, 1, 1)
        return each_loss(hidden[0], head.weight, head.bias, labels, device).view(1, -1, 1)

    with _replaced(head, forward):
        yield


@contextlib.contextmanager
def replaced_by_judged_loss(
    head: nn.Linear, labels: torch.Tensor, judge: Judge, device: torch.device
) -> Iterator[None]:
    """Within the block, `head` maps hidden states [1, targets, hidden] to [1, 1 + targets, 1]: what `judged_loss` returns."""

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        if len(labels) == 0:
            return _nothing(head, hidden).expand(1, 1, 1)
        loss, log_p = judged_loss(hidden[0], head.weight, head.bias, labels, judge, device)
        return torch.cat([loss[None], log_p]).view(1, -1, 1)

    with _replaced(head, forward):
        yield


@contextlib.contextmanager
def replaced_by_its_input(head: nn.Linear) -> Iterator[None]:
    """Within the block, `head` returns the hidden states that it is given, in place of logits."""
    with _replaced(head, lambda hidden: hidden):
        yield


def _nothing(head: nn.Linear, hidden: torch.Tensor) -> torch.Tensor:
    """0 [] of no targets, with a gradient for the states and the head's own weights: processes that average theirs wait for each."""
    return sum((one[:0].sum() for one in head.parameters()), start=hidden.sum() * 0.0)


@contextlib.contextmanager
def _replaced(head: nn.Linear, forward: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    own = vars(head).get("forward")
    head.forward = forward
    try:
        yield
    finally:
        del head.forward
        if own is not None:
            head.forward = own
