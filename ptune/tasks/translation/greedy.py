"""Greedy translations by an encoder-decoder in torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ptune.codecs.seq2seq import Seq2SeqCodec


@torch.no_grad()
def translated(
    model: nn.Module,
    codec: Seq2SeqCodec,
    sources: Sequence[Sequence[int]],
    limits: Sequence[int],
    most_s: float | None = None,
) -> list[list[int]]:
    """The tokens that transformers writes for each source, as one batch, padded on the right; each cut at its own limit.

    limits: most tokens of each translation. most_s: seconds after which the batch ends where it is.
    """
    model.eval()
    device, longest = next(model.parameters()).device, max(map(len, sources))
    padded = [[*one, *[codec.texts.pad_id] * (longest - len(one))] for one in sources]
    mask = [[1] * len(one) + [0] * (longest - len(one)) for one in sources]
    output = model.generate(
        input_ids=torch.tensor(padded, device=device),
        attention_mask=torch.tensor(mask, device=device),
        max_new_tokens=max(limits),
        max_time=most_s,
        do_sample=False,
        num_beams=1,
    )
    return [
        row[:own] if len(row) <= own else _cut(row[:own], codec)
        for row, own in zip(output[:, 1:].tolist(), limits, strict=True)
    ]


def _cut(row: list[int], codec: Seq2SeqCodec) -> list[int]:
    """Cuts a row that ran on with its batch as it would have ended alone, at its own limit."""
    forced = codec.writing.forced_eos_id
    return row if forced is None else [*row[:-1], forced]
