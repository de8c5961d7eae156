"""What a model of rewards says: a bundle's reranker, or its regression of one number."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ptune.errors import PtuneError
from ptune.rewards.reward import Function, RewardError, text_of

RANKING, REGRESSION = "text-ranking", "regression"
Score = Callable[[Sequence[str], Sequence[str]], list[float]]
"""Prompts and answers -> a number for each answer."""


def reward_model(argument: str | None) -> Function:
    """A reranker's probability that the answer suits the prompt, or the number that a regression gives the answer alone. The bundle
    is opened at the first answer, and has one adapter of these kinds. What a model cannot read whole is cut at its end.
    argument: the bundle's folder."""
    folder = bundle_of(argument)
    opened = cache(lambda: _scores(folder))

    def reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Sequence[Any]) -> list[float]:
        return opened()([text_of(prompt) for prompt in prompts], [text_of(answer) for answer in completions])

    return reward


def bundle_of(argument: str | None) -> Path:
    """The bundle's folder that an argument names. Raises: ValueError."""
    if not argument:
        raise ValueError("no bundle stands behind the colon")
    folder = Path(argument)
    if not (folder / "manifest.json").is_file():
        raise ValueError(f"{folder} is no bundle")
    return folder


def opened(folder: Path, fits: Callable[[Any], bool], does: str) -> tuple[Any, Any]:
    """The model of a bundle, and the record of its only adapter that `fits`. Raises: RewardError where there is none, or several."""
    try:
        model = importlib.import_module("ptune.api.load").load(folder)
    except PtuneError as error:
        raise RewardError(str(error)) from None
    found = [record for record in map(model.engine.record, model.engine.adapters) if fits(record)]
    if len(found) != 1:
        names = ", ".join(record.name for record in found)
        raise RewardError(f"{folder} has {names or 'no adapter'} that {does}, and has to have one")
    return model, found[0]


def _scores(folder: Path) -> Score:
    """Raises: RewardError, as `opened`."""

    def fits(record: Any) -> bool:
        return record.task == RANKING or (record.problem == REGRESSION and len(record.labels) == 1)

    model, record = opened(folder, fits, "gives one number for a text")
    name, ranks = record.name, record.task == RANKING

    def score(prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        if not ranks:
            return [float(one.logits[0]) for one in model.classify(list(answers), adapter=name)]
        found: list[float] = []
        for prompt, answer in zip(prompts, answers, strict=True):
            (value,) = model.rerank(prompt, [answer], adapter=name, truncate=True)
            found.append(float(value))
        return found

    return score
