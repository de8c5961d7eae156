"""The log-probabilities of all answers before training, computed once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from numpy.typing import NDArray
from torch import nn

from ptune.data.shapes.preferences import Pair
from ptune.errors import RecipeError
from ptune.progress import Progress
from ptune.tasks.preference.objective import PreferenceObjective

_AT_A_TIME = 64  # pairs whose rows are packed together


@torch.no_grad()
def log_probabilities(
    label: str, objective: PreferenceObjective, model: nn.Module, pairs: Sequence[Pair]
) -> NDArray[np.float64]:
    """The log-probability of each pair's answers under `model` in evaluation mode, [pairs, 2]."""
    found = np.zeros((len(pairs), 2))
    training = model.training
    model.eval()
    with Progress(label, len(pairs), unit="pairs") as progress:
        for first in range(0, len(pairs), _AT_A_TIME):
            some = pairs[first : first + _AT_A_TIME]
            place = {pair.number: first + at for at, pair in enumerate(some)}
            for rows in objective.batches(some):
                answers = objective.answers(model, rows)[0].double().cpu().numpy().reshape(-1, 2)
                found[[place[pair.number] for pair in rows.groups]] = answers
                progress.advance(len(rows.groups))
    model.train(training)
    return found


def refuse_sharded(accelerator: Accelerator, loss: str, what_to_do: str) -> None:
    """Raises: RecipeError where weights are sharded: no process has a whole model."""
    if accelerator.distributed_type == DistributedType.FSDP:
        raise RecipeError(
            f"task.loss {loss} compares with the model before training, which FSDP has in no process as a"
            f" whole: {what_to_do}"
        )
