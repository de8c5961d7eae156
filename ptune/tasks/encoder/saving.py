"""Saves the trained weights of an encoder's run, and proves that they read back the same."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import nn

from ptune.codecs.labels import NUMBERS, Problem
from ptune.config.recipe import Recipe
from ptune.formats.bundle import BaseIdentity, Hop
from ptune.formats.run import Run
from ptune.formats.whole_write import write_text
from ptune.methods.peft_method import in_order
from ptune.parity import compare
from ptune.training.checkpoint import tensors_folder
from ptune.training.reload import LIMIT, NAME

ROWS = 16  # number of held-out rows to compare
_RELOADED = "reloaded"
T = TypeVar("T")


class Facts(Protocol):
    """ptune.json: the information needed to use trained weights."""

    def save(self, folder: Path) -> None:
        """Writes it."""


def write_trained(
    run: Run,
    recipe: Recipe,
    model: nn.Module,
    facts: Facts,
    identity: BaseIdentity,
    state: dict[str, torch.Tensor] | None,
    complete: Callable[[Path], Any],
) -> None:
    """Writes adapter/ (PEFT's format, with the head) or model/ (transformers' format), each with ptune.json.

    state: replaces the model's own weights if these are sharded; complete: adds to model/ the files that turn input into
    tensors.
    """
    if isinstance(model, PeftModel):
        config = model.peft_config[model.active_adapter]
        config.base_model_name_or_path = recipe.backbone.model
        in_order(config)
        with tensors_folder(run.adapter_path) as part:
            model.save_pretrained(part, save_embedding_layers=False, state_dict=state)
            facts.save(part)
        return
    with tensors_folder(run.model_path) as part:
        model.save_pretrained(part, state_dict=state)
        complete(part)
        facts.save(part)
        write_text(
            part / "README.md", f"---\nlicense: {identity.licence}\nbase_model: {identity.source}\n---\n"
        )


@contextmanager
def read_again(model: PeftModel, adapter: Path) -> Iterator[Callable[[], None]]:
    """Loads `adapter` a second time into the live model; yields a function that switches to it."""
    live = model.active_adapter
    model.load_adapter(str(adapter), adapter_name=_RELOADED)
    try:
        yield lambda: model.set_adapter(_RELOADED)
    finally:
        model.set_adapter(live)
        model.delete_adapter(_RELOADED)


def reloaded_hop(
    model: nn.Module,
    run: Run,
    again: Callable[[], nn.Module],
    logits: Callable[[nn.Module, T], torch.Tensor],
    examples: Sequence[T],
    problem: Problem,
) -> Hop:
    """The hop from memory to disk. `again` loads model/; `logits` gives [n, labels] of one example."""
    examples = examples[:ROWS]
    model.eval()
    if not isinstance(model, PeftModel):
        other = again().eval()
        return hop(((logits(model, one), logits(other, one)) for one in examples), problem)
    trained = [logits(model, one) for one in examples]
    with read_again(model, run.adapter_path) as switch:
        switch()
        model.eval()
        reloaded = [logits(model, one) for one in examples]
    return hop(zip(trained, reloaded, strict=True), problem)


def hop(compared: Iterable[tuple[torch.Tensor, torch.Tensor]], problem: Problem) -> Hop:
    """The hop over pairs of logits, as trained and as reloaded: compares log-probabilities, or a regression's numbers."""
    first, second = itertools.tee(compared)
    trained = (said(side, problem) for side, _ in first)
    reloaded = (said(side, problem) for _, side in second)
    with np.errstate(
        over="ignore", invalid="ignore"
    ):  # numbers are no logarithms: their divergence means nothing
        found = compare(NAME, trained, reloaded, max_abs_logprob=LIMIT)
    if problem not in NUMBERS:
        return found
    return found.model_copy(update={"mean_kl": None, "top1": None, "limit": f"max |Δ| ≤ {LIMIT:g}"})


def said(logits: torch.Tensor, problem: Problem) -> np.ndarray[Any, Any]:
    """Logits [n, labels] -> log-probabilities (several labels: [n * labels, 2], applies or not), or plain numbers."""
    values = logits.detach().double().cpu()
    if problem == "multi":
        values = torch.stack([F.logsigmoid(values), F.logsigmoid(-values)], -1).flatten(0, 1)
    elif problem not in NUMBERS:
        values = F.log_softmax(values, -1)
    array: np.ndarray[Any, Any] = values.numpy()
    return array
