"""What a process reward model says: how likely the steps of an answer are right."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from ptune.codecs.labels import Labels
from ptune.codecs.steps import split
from ptune.rewards.reward import Function, text_of
from ptune.rewards.reward_model import bundle_of, opened

JOINS: Mapping[str, Callable[[Sequence[float]], float]] = {
    "min": min,
    "product": math.prod,
    "mean": lambda steps: math.fsum(steps) / len(steps),
}
"""From the probabilities of an answer's steps to its reward."""


def process_reward(argument: str | None) -> Function:
    """The probability that the worst step of an answer is right; or the product of all, or their mean. 0 for an answer without a step.

    The answer is split at the separator that the model was trained with. The bundle is opened at the first answer, and has one
    adapter that judges steps. Steps that the model cannot read are left out; where it can read none, it has no opinion.
    argument: the bundle's folder, and how to join steps: FOLDER, FOLDER:product.
    """
    before, colon, last = (argument or "").rpartition(":")
    path, join = (before, last) if colon and last in JOINS else (argument, "min")
    folder = bundle_of(path)
    model_of = cache(lambda: opened(folder, lambda record: record.step_separator is not None, "judges steps"))

    def reward(
        prompts: Sequence[Any], completions: Sequence[Any], **columns: Sequence[Any]
    ) -> list[float | None]:
        model, record = model_of()
        asked = [
            (text_of(prompt), text_of(answer)) for prompt, answer in zip(prompts, completions, strict=True)
        ]
        stepped = [one for one in dict.fromkeys(asked) if split(one[1], record.step_separator)]
        labels = Labels(record.labels, record.problem)
        logits = model.logits(stepped, record.name)
        right = {one: labels.scores(found)[:, 1].tolist() for one, found in zip(stepped, logits, strict=True)}
        return [_joined(right[one], join) if one in right else 0.0 for one in asked]

    return reward


def _joined(steps: Sequence[float], join: str) -> float | None:
    return JOINS[join](steps) if steps else None
