"""Figures of held-out pairs of answers: which one a model prefers, by how much, and whether length decides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from torch import nn
from transformers import PreTrainedModel

from ptune.config.preference import Preference
from ptune.data.shapes.preferences import Pair
from ptune.evaluation.classification.bootstrap import means
from ptune.evaluation.figures import objective_of
from ptune.evaluation.pair_titles import cell, titles
from ptune.tasks.preference.objective import PreferenceObjective
from ptune.tasks.preference.reference import log_probabilities
from ptune.training.rows.packing import targets


def measured(
    label: str,
    model: nn.Module,
    backbone: PreTrainedModel,
    pairs: Sequence[Pair],
    task: Preference,
    max_tokens: int,
) -> NDArray[np.float64]:
    """The log-probability of each answer, [pairs, 2]. backbone: the transformers model inside `model`."""
    with objective_of(model, backbone, max_tokens) as next_token:
        return log_probabilities(label, PreferenceObjective(task, next_token), model, pairs)


def compared(
    task: Preference, pairs: Sequence[Pair], before: NDArray[np.float64], after: NDArray[np.float64]
) -> dict[str, Any]:
    """The figures of base and tuned model, each with a 95 % interval, in JSON types.

    preferred: share of pairs whose better answer gained more in log-probability from training than the worse one, per token
    if the loss compares means; also among pairs whose better answer is the longer one, and the others. margin: by how much
    a whole answer did, and margin_a_token, if the loss compares means, by how much per token.
    likelier: share of pairs whose better answer is the likelier one per token.
    """
    counts = np.array([[targets(side) for side in pair.sides] for pair in pairs])
    gained = after - before
    fair = gained / counts if task.compares_means else gained
    preferred = fair[:, 0] > fair[:, 1]
    longer = counts[:, 0] > counts[:, 1]
    base, tuned = (
        {
            "likelier": of[:, 0] / counts[:, 0] > of[:, 1] / counts[:, 1],
            "chosen": of[:, 0],
            "rejected": of[:, 1],
        }
        for of in (before, after)
    )
    tuned |= {"preferred": preferred, "margin": gained[:, 0] - gained[:, 1]}
    if task.compares_means:
        tuned |= {"margin_a_token": fair[:, 0] - fair[:, 1]}
    return {
        "pairs": len(pairs),
        "base": means(base),
        "tuned": means(tuned),
        "by_length": {
            name: {"pairs": int(which.sum()), "preferred": float(preferred[which].mean())}
            for name, which in (("better answer is longer", longer), ("better answer is not longer", ~longer))
            if which.any()
        },
    }


def table(found: dict[str, Any]) -> Table:
    """The figures as a table."""
    shown = Table(title=f"{found['pairs']} held-out pairs")
    shown.add_column("")
    shown.add_column("base", justify="right")
    shown.add_column("tuned", justify="right")
    for name, title in titles(found).items():
        shown.add_row(title, *(cell(name, found[side]) for side in ("base", "tuned")))
    for name, part in found["by_length"].items():
        shown.add_row(f"… where the {name} ({part['pairs']})", "", f"{part['preferred']:.1%}")
    return shown
