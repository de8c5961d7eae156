"""How a training ended, in words: why before its last step, and which step was kept."""

from __future__ import annotations

from typing import Literal

from ptune.config.recipe import Train
from ptune.training.checkpoint import State


def told(
    train: Train,
    state: State,
    ending: Literal["finished", "stopped early", "interrupted"],
    planned: int,
    measure: str,
) -> str:
    """A sentence or two; empty if it was interrupted, or kept the last of all planned steps.

    measure: what was validated, "loss" or "reward" (of which `state` has the negative).
    """
    if ending == "interrupted":
        return ""
    early = ending == "stopped early"
    sentences = (
        [f"Stopped early after step {state.step} of {planned}: {_why(train, state)}."] if early else []
    )
    if (
        state.best_step is not None
        and state.best_loss is not None
        and (early or state.best_step != state.step)
    ):
        value, most = (state.best_loss, "lowest") if measure == "loss" else (-state.best_loss, "highest")
        sentences.append(
            f"Step {state.best_step} was kept: its validation {measure} was the {most}, {value:.4g}."
        )
    return " ".join(sentences)


def _why(train: Train, state: State) -> str:
    if train.patience is not None and state.worse >= train.patience:
        return f"{state.worse} validations in a row were no better than step {state.best_step} (train.patience {train.patience})"
    if state.rollbacks and not state.rollbacks[-1].lr:
        return "training had collapsed"
    return "it was asked to end"
