"""Greedy answers to held-out prompts."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ptune.codecs.chat import ChatCodec
from ptune.tasks.chat.greedy import greedy
from ptune.training.journal.samples import Answer

ROWS = 16  # prompts answered at once


def answers(
    model: torch.nn.Module,
    codec: ChatCodec,
    prompts: Sequence[Sequence[int]],
    max_tokens: int | Sequence[int],
    device: torch.device,
) -> list[str]:
    """Returns the text of one greedy answer per prompt, in order: see `answered`."""
    return [one.text for one in answered(model, codec, prompts, max_tokens, device)]


@torch.no_grad()
def answered(
    model: torch.nn.Module,
    codec: ChatCodec,
    prompts: Sequence[Sequence[int]],
    max_tokens: int | Sequence[int],
    device: torch.device,
    most_s: float | None = None,
) -> list[Answer]:
    """Returns one greedy answer per prompt, in order; computed in batches, padded on the left.

    max_tokens: one limit for all answers, or one for each. most_s: seconds after which a batch ends where it is.
    """
    model.eval()
    limits = [max_tokens] * len(prompts) if isinstance(max_tokens, int) else max_tokens
    found = []
    for start in range(0, len(prompts), ROWS):
        rows = prompts[start : start + ROWS]
        width, most = max(len(row) for row in rows), limits[start : start + ROWS]
        config = greedy(codec.eos_ids, max(most), most_s)
        ids = torch.zeros(len(rows), width, dtype=torch.long, device=device)
        mask = torch.zeros_like(ids)
        for place, row in enumerate(rows):
            ids[place, width - len(row) :] = torch.tensor(row, device=device)
            mask[place, width - len(row) :] = 1
        output = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
        generated = [row[:limit] for row, limit in zip(output[:, width:].tolist(), most, strict=True)]
        found += [_answer(row, codec) for row in generated]
    return found


def _answer(ids: list[int], codec: ChatCodec) -> Answer:
    """Drops the end token of an answer and the padding after it."""
    end = next((place for place, token in enumerate(ids) if token in codec.eos_ids), None)
    return Answer(codec.decode_answer(ids[:end]).strip(), ended=end is not None)
