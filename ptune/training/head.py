"""Computes the loss inside the output head, a chunk of targets at a time, so that a batch's logits never exist as a whole.

Vocabularies are large (49,152 words in SmolLM2, 151,936 in Qwen3): the logits of a few hundred targets, their softmax and
their gradient would take more memory than the rest of a step. The head does this in its own `forward`, because that is
where sharded training (FSDP) has its whole weight.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel

from ptune.training.segments import probing, segments

_CHUNK_LOGITS = 2**23  # 32 MiB in float32


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
def replaced_by_loss(head: nn.Linear, labels: torch.Tensor) -> Iterator[None]:
    """Within the block, `head` maps hidden states [1, targets, hidden] to their loss instead of their logits.

    It returns [1, 1, 2]: the sum of the cross-entropies of `labels` [targets], and the number of labels that are the most
    likely token (counted in eval mode only; 0 in training).
    """
    own = vars(head).get("forward")
    loss = _trained_loss if head.training else _measured_loss
    head.forward = _as_forward(head, labels, loss)
    try:
        yield
    finally:
        del head.forward
        if own is not None:
            head.forward = own


_Loss = Callable[[torch.Tensor, nn.Linear, torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]]


def _as_forward(head: nn.Linear, labels: torch.Tensor, loss: _Loss) -> Callable[..., torch.Tensor]:
    def forward(hidden: torch.Tensor) -> torch.Tensor:
        rows = max(1, _CHUNK_LOGITS // head.out_features)
        return torch.stack(loss(hidden[0], head, labels, rows)).view(1, 1, 2)

    return forward


def _trained_loss(
    hidden: torch.Tensor, head: nn.Linear, labels: torch.Tensor, rows: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss with its graph. The gradient is computed chunk by chunk in the forward pass; a frozen head gets none."""
    if len(labels) == 0:
        loss = hidden.sum() * 0.0  # so that every process has a backward pass
    else:
        options = nn.LinearCrossEntropyOptions(batch_chunk_size=rows, chunking_method=None)
        loss = F.linear_cross_entropy(
            hidden, head.weight, labels, linear_bias=head.bias, reduction="sum", options=options
        )
    return loss, torch.zeros_like(loss)


def _measured_loss(
    hidden: torch.Tensor, head: nn.Linear, labels: torch.Tensor, rows: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and number of correct predictions."""
    wide = torch.promote_types(hidden.dtype, torch.float32)
    loss, correct = hidden.new_zeros(2, dtype=wide)
    for some, wanted in zip(hidden.split(rows), labels.split(rows), strict=True):
        logits = F.linear(some, head.weight, head.bias).to(wide)
        loss = loss + F.cross_entropy(logits, wanted, reduction="sum")
        correct = correct + (logits.argmax(-1) == wanted).sum()
    return loss, correct
