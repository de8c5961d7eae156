"""Losses and gradients are those of TRL's own trainers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.trl import of_trl

from ptune.config.reinforcement import LOSSES, Reinforcement
from ptune.tasks.reinforcement.losses import answer_losses
from ptune.tasks.reinforcement.rollout import advantages

COUNTS, LONGEST = [3, 1, 5, 2], 6
LOG_P = [
    [-0.5, -1.25, -0.1, 0, 0, 0],
    [-2.0, 0, 0, 0, 0, 0],
    [-0.7, -0.2, -3.0, -1.0, -0.4, 0],
    [-1.1, -0.9, 0, 0, 0, 0],
]
REFERENCE = [[value * 0.8 - 0.1 for value in row] for row in LOG_P]
REWARDS = [1.0, 0.0, 0.5, 0.25]
KL = 0.04

OF_TRL = """
import json, sys
from unittest.mock import MagicMock
import torch
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.rloo_trainer import RLOOTrainer

asked = json.load(sys.stdin)
wide = lambda numbers: torch.tensor(numbers, dtype=torch.float64)
mask = torch.zeros(len(asked["counts"]), asked["longest"])
for row, count in enumerate(asked["counts"]):
    mask[row, :count] = 1
found = {}
for name, kl in asked["losses"]:
    log_p = wide(asked["log_p"]).requires_grad_()
    me = MagicMock(
        aux_loss_enabled=False, top_entropy_quantile=1.0, off_policy_mask_threshold=None,
        importance_sampling_level="token", beta=kl, loss_type=name, epsilon_low=0.2, epsilon_high=0.2, use_vllm=False,
        max_completion_length=asked["longest"], current_gradient_accumulation_steps=1,
    )
    me._entropy_bonus_enabled = False
    me.args.delta, me.args.use_bias_correction_kl, me.model.training = None, False, True
    me.accelerator.num_processes = me.args.steps_per_generation = 1
    me.accelerator.gather = me.accelerator.reduce = lambda value, *_, **__: value
    me._get_per_token_logps_and_entropies = lambda *_, **__: (log_p, torch.zeros_like(log_p), None)
    inputs = {
        "prompt_ids": torch.ones(4, 2, dtype=torch.long), "prompt_mask": torch.ones(4, 2),
        "completion_ids": torch.ones_like(mask, dtype=torch.long), "completion_mask": mask,
        "advantages": wide(asked["advantages"][name]), "ref_per_token_logps": wide(asked["reference"]),
        "num_items_in_batch": mask.sum(), "old_logps": (log_p.detach() * mask).sum(1),
    }
    trainer = RLOOTrainer if name == "rloo" else GRPOTrainer
    loss = trainer._compute_loss(me, None, inputs)
    loss.backward()
    found[f"{name} {kl}"] = [loss.item(), log_p.grad.tolist()]
print(json.dumps(found))
"""


def ours(name: Any, kl: float) -> tuple[float, list[list[float]]]:
    """Loss and gradient, [answers, longest]."""
    task = Reinforcement(loss=name, answer_tokens=LONGEST, kl=kl)
    log_p = torch.tensor(LOG_P, dtype=torch.float64).requires_grad_()
    at = [(row, place) for row, count in enumerate(COUNTS) for place in range(count)]
    rows, places = (torch.tensor(side) for side in zip(*at, strict=True))
    above = torch.tensor(advantages(task.facts.baseline, np.array(REWARDS)))
    reference = torch.tensor(REFERENCE, dtype=torch.float64)[rows, places] if kl else None
    losses = answer_losses(task, log_p[rows, places], rows, above, reference)
    loss = losses.sum() / (sum(COUNTS) if task.facts.per == "token" else len(COUNTS))
    loss.backward()
    assert log_p.grad is not None
    return float(loss), log_p.grad.tolist()


@pytest.mark.slow
def test_losses_and_gradients_are_those_of_trl(tmp_path: Path) -> None:
    rewards = np.array(REWARDS)
    # RLOO's divergence is part of TRL's reward, and of ours of the loss
    tried = [(name, kl) for name in LOSSES for kl in (0.0, KL) if not (name == "rloo" and kl)]
    asked = {
        "counts": COUNTS,
        "longest": LONGEST,
        "log_p": LOG_P,
        "reference": REFERENCE,
        "losses": tried,
        "advantages": {name: advantages(facts.baseline, rewards).tolist() for name, facts in LOSSES.items()},
    }
    found = of_trl(OF_TRL, asked, tmp_path)
    assert len(found) == len(tried) == 7
    for name, kl in tried:
        theirs, mine = found[f"{name} {kl}"], ours(name, kl)
        assert mine[0] == pytest.approx(theirs[0], abs=1e-12), name
        assert np.abs(np.array(mine[1]) - np.array(theirs[1])).max() < 1e-12, name
