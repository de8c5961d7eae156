"""Figures of held-out judged answers: whether desirable ones gained and undesirable ones lost, and whether length decides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from torch import nn
from transformers import PreTrainedModel

from ptune.config.unpaired_preference import UnpairedPreference
from ptune.data.examples.judged import JudgedExample
from ptune.evaluation import binomial
from ptune.evaluation.classification.bootstrap import Counts, Values, in_json, intervals
from ptune.evaluation.classification.weighted import roc_auc
from ptune.evaluation.figures import objective_of
from ptune.evaluation.judged_titles import TITLES, by_length, cell
from ptune.progress import say
from ptune.tasks.unpaired_preference.objective import UnpairedObjective
from ptune.tasks.unpaired_preference.reference import of_examples
from ptune.training.rows.packing import targets


def measured(
    label: str,
    model: nn.Module,
    backbone: PreTrainedModel,
    answers: Sequence[JudgedExample],
    task: UnpairedPreference,
    max_tokens: int,
) -> NDArray[np.float64]:
    """The log-probability of each answer, [answers]. backbone: the transformers model inside `model`."""
    say(label)
    model.eval()
    with objective_of(model, backbone, max_tokens) as next_token:
        return of_examples(UnpairedObjective(task, next_token), model, [answer.own for answer in answers])


def compared(
    answers: Sequence[JudgedExample], before: NDArray[np.float64], after: NDArray[np.float64]
) -> dict[str, Any]:
    """The figures of base and tuned model, each with a 95 % interval, in JSON types.

    told_apart: of a desirable and an undesirable answer, how often the desirable one gained more log-probability in training
    (the area under the ROC curve of the gain). gained, lost: shares of the desirable answers that gained, and of the undesirable
    ones that lost. margin: by how much more the former gained on average. likelier: told_apart of the log-probability per token,
    of each model by itself. longer: told_apart of the length. Figures that need a verdict which no answer has are left out.
    """
    desirable = np.array([answer.desirable for answer in answers])
    counts = np.array([targets(answer.own) for answer in answers])
    gained = after - before
    every = np.ones((1, len(answers)), np.float32)
    longer = float(roc_auc(every, desirable, counts)[0])
    return {
        "answers": len(answers),
        "desirable": int(desirable.sum()),
        "base": _figures(desirable, before, counts, None),
        "tuned": _figures(desirable, after, counts, gained),
        **({} if np.isnan(longer) else {"longer": longer}),
    }


def table(found: dict[str, Any]) -> Table:
    """The figures as a table."""
    undesirable = found["answers"] - found["desirable"]
    shown = Table(
        title=f"{found['desirable']} desirable and {undesirable} undesirable held-out answers",
        caption=by_length(found) or None,
    )
    shown.add_column("")
    shown.add_column("base", justify="right")
    shown.add_column("tuned", justify="right")
    for name, title in TITLES.items():
        shown.add_row(title, *(cell(name, found[side]) for side in ("base", "tuned")))
    return shown


def _figures(
    desirable: NDArray[np.bool_],
    log_p: NDArray[np.float64],
    counts: NDArray[np.int64],
    gained: NDArray[np.float64] | None,
) -> dict[str, Any]:
    def of(drawn: Counts) -> dict[str, Values]:
        found = {
            "likelier": roc_auc(drawn, desirable, log_p / counts),
            "desirable": _mean(drawn, desirable, log_p),
            "undesirable": _mean(drawn, ~desirable, log_p),
        }
        if gained is not None:
            found |= {
                "told_apart": roc_auc(drawn, desirable, gained),
                "gained": _mean(drawn, desirable, gained > 0),
                "lost": _mean(drawn, ~desirable, gained < 0),
                "margin": _mean(drawn, desirable, gained) - _mean(drawn, ~desirable, gained),
            }
        return found

    values, ranges = of(np.ones((1, len(log_p)), np.float32)), intervals(len(log_p), of)
    if gained is not None:
        shares = {"gained": gained[desirable] > 0, "lost": gained[~desirable] < 0}
        ranges |= {name: binomial.of_rows(rows) for name, rows in shares.items() if len(rows)}
    return {
        name: {"value": float(value[0]), "interval": in_json(ranges.get(name))}
        for name, value in values.items()
        if np.isfinite(value[0])
    }


def _mean(drawn: Counts, which: NDArray[np.bool_], values: NDArray[Any]) -> Values:
    """[resamples] means over the answers that count; NaN where none does."""
    weights = (drawn * which).astype(np.float64)
    total = weights.sum(axis=1)
    sums = weights @ values.astype(np.float64)
    return np.divide(sums, total, out=np.full(len(total), np.nan), where=total > 0)
