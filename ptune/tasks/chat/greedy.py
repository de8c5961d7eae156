"""How transformers' `generate` is asked for greedy answers, whatever defaults the model's own files have."""

from __future__ import annotations

from collections.abc import Collection

from transformers import GenerationConfig


def greedy(ends: Collection[int], most: int, most_s: float | None = None) -> GenerationConfig:
    """The likeliest token each time, up to one of the tokens that end an answer, `most` tokens, or that many seconds."""
    last = sorted(ends)
    return GenerationConfig(
        do_sample=False,
        repetition_penalty=1.0,  # else transformers takes the model's own default
        max_new_tokens=most,
        max_time=most_s,
        eos_token_id=last or None,
        pad_token_id=last[0] if last else 0,
    )
