"""How the figures of a reinforcement run are shown."""

from __future__ import annotations

from typing import Any

SAMPLES = 4
"""Sampled answers to each prompt."""


def title(name: str) -> str:
    """A figure's name for a reader."""
    names = {
        "reward": "reward of the greedy answer",
        "reward_sampled": f"reward of {SAMPLES} sampled answers, mean",
        "answer_tokens": "tokens of the greedy answer",
        "cut": "greedy answers that were cut",
    }
    return names.get(name, f"… {name.removeprefix('reward/')}")


def cell(figure: dict[str, Any] | None) -> str:
    """A figure with its interval."""
    if figure is None:
        return "–"
    if figure["interval"] is None:
        return f"{figure['value']:.3f}"
    low, high = figure["interval"]
    return f"{figure['value']:.3f} ({low:.3f} to {high:.3f})"
