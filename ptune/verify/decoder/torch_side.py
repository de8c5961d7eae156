"""The reference: transformers and peft, in float32, on the base that was trained on (dequantised)."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from peft import PeftModel
from torch import Tensor, nn

from ptune.backbone.float32 import Float32Linear
from ptune.backbone.lockstep import in_lockstep
from ptune.parity import Array, log_softmax
from ptune.progress import Progress
from ptune.training.rows.virtual_tokens import virtual_tokens
from ptune.verify.spool import spooled

AT_ONCE = 8  # sequences in lockstep: what they have computed of a layer is in memory at once


@dataclass(frozen=True)
class Probe:
    """A held-out prompt with its answer, and the positions to compare distributions at."""

    ids: tuple[int, ...]
    wanted: tuple[int, ...]
    prompt_tokens: int  # how many of `ids` come before the answer


def logprobs(model: nn.Module, probes: Sequence[Probe]) -> list[Array]:
    """Log-probabilities [len(wanted), vocab] of each probe, one sequence at a time, in evaluation mode.

    Where layers make their weights as they run, a few sequences go in lockstep: the same bits, and each weight is made for them all.
    """
    model.eval()
    passes = [partial(_logits, model, probe) for probe in probes]
    at_once = AT_ONCE if any(isinstance(layer, Float32Linear) for layer in model.modules()) else 1
    groups = [passes[start : start + at_once] for start in range(0, len(passes), at_once)]
    found: list[Array] = []
    with Progress("what PyTorch computes", len(passes), unit="texts") as progress:
        for group in groups:
            found += [spooled(log_softmax(rows.float().cpu().numpy())) for rows in in_lockstep(group)]
            progress.advance(len(group))
    return found


@torch.no_grad()
def _logits(model: nn.Module, probe: Probe) -> Tensor:
    return logits_at(model, probe.ids, probe.wanted)


def logits_at(model: nn.Module, ids: Sequence[int], positions: Sequence[int]) -> Tensor:
    """Logits [len(positions), vocab] of one sequence. A model that can leave out the others does not compute them."""
    return batch_logits_at(model, [ids], [positions])[0]


def batch_logits_at(
    model: nn.Module, sequences: Sequence[Sequence[int]], positions: Sequence[Sequence[int]]
) -> list[Tensor]:
    """Logits [len(positions), vocab] of each sequence, computed together.

    Shorter sequences are filled up behind their ends, which a causal model's earlier positions do not see.
    """
    device, longest = next(model.parameters()).device, max(map(len, sequences))
    ids = torch.tensor([[*one, *[one[-1]] * (longest - len(one))] for one in sequences], device=device)
    kept = sorted({at for wanted in positions for at in wanted})
    before = virtual_tokens(model)  # of which the model gives logits, too
    columns = [at + before for at in kept]
    plain = model.get_base_model() if isinstance(model, PeftModel) else model
    if "logits_to_keep" in inspect.signature(plain.forward).parameters:
        logits = model(
            input_ids=ids, use_cache=False, logits_to_keep=torch.tensor(columns, device=device)
        ).logits
    else:
        logits = model(input_ids=ids, use_cache=False).logits[:, columns]
    place = {position: at for at, position in enumerate(kept)}
    return [rows[[place[at] for at in wanted]] for rows, wanted in zip(logits, positions, strict=True)]
