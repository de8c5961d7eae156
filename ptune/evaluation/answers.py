"""Greedy answers to held-out prompts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import GenerationConfig

from ptune.codecs.chat import ChatCodec

ROWS = 16  # prompts answered at once


@torch.no_grad()
def answers(
    model: torch.nn.Module,
    codec: ChatCodec,
    prompts: Sequence[Sequence[int]],
    max_tokens: int | Sequence[int],
    device: torch.device,
) -> list[str]:
    """One greedy answer a prompt, in the order given; prompts go through the model together, padded on the left.

    max_tokens: of every answer, or of each.
    """
    model.eval()
    limits = [max_tokens] * len(prompts) if isinstance(max_tokens, int) else max_tokens
    ends = sorted(codec.eos_ids)
    found = []
    for start in range(0, len(prompts), ROWS):
        rows = prompts[start : start + ROWS]
        width, most = max(len(row) for row in rows), limits[start : start + ROWS]
        config = GenerationConfig(
            do_sample=False,
            repetition_penalty=1.0,  # what is left open here, transformers takes from the model's own defaults
            max_new_tokens=max(most),
            eos_token_id=ends or None,
            pad_token_id=ends[0] if ends else 0,
        )
        ids = torch.zeros(len(rows), width, dtype=torch.long, device=device)
        mask = torch.zeros_like(ids)
        for place, row in enumerate(rows):
            ids[place, width - len(row) :] = torch.tensor(row, device=device)
            mask[place, width - len(row) :] = 1
        output = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
        said = [row[:limit] for row, limit in zip(output[:, width:].tolist(), most, strict=True)]
        found += [codec.decode_answer(_until_end(row, codec.eos_ids)).strip() for row in said]
    return found


def _until_end(ids: list[int], ends: frozenset[int]) -> list[int]:
    """An answer without the token that ended it and the padding after it."""
    return next((ids[:place] for place, token in enumerate(ids) if token in ends), ids)
