"""One sentence on top of the figures: whether the model is better than a simple one, by the intervals of both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ptune.evaluation.classification.results import LOWER_IS_BETTER, shown, title

NAMES = {"commonest label": "the most common label", "copy": "a copy of the source", "base": "the base model"}


def verdict(evaluation: Mapping[str, Any]) -> str:
    """Empty where there is nothing to compare with, or the evaluation says itself that the model is no better."""
    if evaluation.get("no_better"):
        return ""
    if "sides" in evaluation:
        return _beside_simple_ones(evaluation)
    if "before" in evaluation and "after" in evaluation:
        before, after = (evaluation[side]["loss"] for side in ("before", "after"))
        if after < before:
            return (
                f"After training the model expects the held-out answers more than before: loss a token {after:.3f}, before"
                f" {before:.3f}. Whether its own answers are better, blind votes tell."
            )
    return ""


def _beside_simple_ones(evaluation: Mapping[str, Any]) -> str:
    name = next(iter(evaluation.get("headline") or ()), None)
    own = evaluation["sides"].get("torch")
    if name is None or own is None or name not in own["metrics"]:
        return ""
    simple = {one: side for one, side in evaluation.get("baselines", {}).items() if name in side["metrics"]}
    if not simple:
        return ""
    sign = -1 if name in LOWER_IS_BETTER else 1
    best = max(simple, key=lambda one: sign * simple[one]["metrics"][name])
    figures = f"{title(name)} {_figure(name, own)} against {_figure(name, simple[best])}"
    mine, other = (side["intervals"].get(name) for side in (own, simple[best]))
    against = f"the best simple one here ({NAMES.get(best, best)})"
    if mine is None or other is None:
        return f"The model has the better figure than {against}: {figures}; how sure that is, is not known."
    apart = mine[0] > other[1] if sign > 0 else mine[1] < other[0]
    if apart:
        return f"The model is better than {against}: {figures}."
    rows = evaluation["examples"]
    return (
        f"Whether the model is better than {against} cannot be told from {rows:,} rows: {figures}, and these intervals"
        " overlap. More held-out rows would tell."
    )


def _figure(name: str, side: Mapping[str, Any]) -> str:
    between = side["intervals"].get(name)
    told = shown(name, side["metrics"][name])
    return told if between is None else f"{told} ({shown(name, between[0])} to {shown(name, between[1])})"
