"""Losses, gradients and clipped shares are those of TRL's own trainers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.trl import of_trl

from ptune.config.reinforcement import LOSSES, Reinforcement
from ptune.tasks.reinforcement.losses import answer_losses, is_clipped, ratios
from ptune.tasks.reinforcement.rollout import advantages

COUNTS, LONGEST = [3, 1, 5, 2], 6
LOG_P = [
    [-0.5, -1.25, -0.1, 0, 0, 0],
    [-2.0, 0, 0, 0, 0, 0],
    [-0.7, -0.2, -3.0, -1.0, -0.4, 0],
    [-1.1, -0.9, 0, 0, 0, 0],
]
MORE = [  # than when the model answered: what is better is likelier in the first, worse likelier in the last
    [0.5, 0.4, -0.1, 0, 0, 0],
    [-0.4, 0, 0, 0, 0, 0],
    [0.1, -0.3, 0.05, 0.26, -0.02, 0],
    [0.5, 0.3, 0, 0, 0, 0],
]
BEFORE = [
    [now - more for now, more in zip(row, of, strict=True)] for row, of in zip(LOG_P, MORE, strict=True)
]
REFERENCE = [[value * 0.8 - 0.1 for value in row] for row in LOG_P]
REWARDS = [1.0, 0.0, 0.5, 0.25]
KL, CLIP, CLIP_HIGH = 0.04, 0.2, 0.28

OF_TRL = """
import json, sys
from collections import defaultdict
from unittest.mock import MagicMock
import torch
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.rloo_trainer import RLOOTrainer

asked = json.load(sys.stdin)
wide = lambda numbers: torch.tensor(numbers, dtype=torch.float64)
mask = torch.zeros(len(asked["counts"]), asked["longest"])
for row, count in enumerate(asked["counts"]):
    mask[row, :count] = 1
found = []
for case in asked["cases"]:
    log_p = wide(asked["log_p"]).requires_grad_()
    before = wide(asked["before"]) if case["again"] else log_p.detach()
    me = MagicMock(
        aux_loss_enabled=False, top_entropy_quantile=1.0, off_policy_mask_threshold=None,
        importance_sampling_level=case["level"], beta=case["kl"], loss_type=case["type"], epsilon_low=asked["clip"],
        epsilon_high=asked["clip_high"], use_vllm=False, max_completion_length=asked["longest"],
        current_gradient_accumulation_steps=1,
    )
    me._entropy_bonus_enabled = False
    me.args.delta, me.args.use_bias_correction_kl, me.model.training = None, False, True
    me.accelerator.num_processes = me.args.steps_per_generation = 1
    me.accelerator.gather = me.accelerator.reduce = lambda value, *_, **__: value
    me._get_per_token_logps_and_entropies = lambda *_, **__: (log_p, torch.zeros_like(log_p), None)
    me._metrics = {"train": defaultdict(list)}
    inputs = {
        "prompt_ids": torch.ones(4, 2, dtype=torch.long), "prompt_mask": torch.ones(4, 2),
        "completion_ids": torch.ones_like(mask, dtype=torch.long), "completion_mask": mask,
        "advantages": wide(case["advantages"]), "ref_per_token_logps": wide(asked["reference"]),
        "num_items_in_batch": mask.sum(), "old_logps": (before * mask).sum(1),
    }
    if case["again"]:
        inputs["old_per_token_logps"] = before
    trainer = RLOOTrainer if case["type"] == "rloo" else GRPOTrainer
    loss = trainer._compute_loss(me, None, inputs)
    loss.backward()
    found.append([loss.item(), log_p.grad.tolist(), me._metrics["train"]["clip_ratio/region_mean"][0]])
print(json.dumps(found))
"""


def ours(name: Any, kl: float, again: bool) -> tuple[float, list[list[float]], float]:
    """Loss, gradient, [answers, longest], and clipped share."""
    changed: dict[str, Any] = {"updates": 2, "clip": CLIP, "clip_high": CLIP_HIGH} if again else {}
    task = Reinforcement(loss=name, answer_tokens=LONGEST, kl=kl, **changed)
    log_p = torch.tensor(LOG_P, dtype=torch.float64).requires_grad_()
    at = [(row, place) for row, count in enumerate(COUNTS) for place in range(count)]
    rows, places = (torch.tensor(side) for side in zip(*at, strict=True))
    above = torch.tensor(advantages(task.facts.baseline, np.array(REWARDS)))
    reference = torch.tensor(REFERENCE, dtype=torch.float64)[rows, places] if kl else None
    own = log_p[rows, places]
    before = torch.tensor(BEFORE, dtype=torch.float64)[rows, places] if again else own.detach()
    losses = answer_losses(task, own, rows, above, reference, before if again else None)
    loss = losses.sum() / (sum(COUNTS) if task.facts.per == "token" else len(COUNTS))
    loss.backward()
    assert log_p.grad is not None
    ratio = ratios(task, own.detach(), before, rows, rows.bincount())
    clipped = is_clipped(task, ratio, above[rows] if len(ratio) == len(rows) else above)
    return float(loss), log_p.grad.tolist(), float(clipped.double().mean())


@pytest.mark.slow
def test_losses_gradients_and_clipped_shares_are_those_of_trl(tmp_path: Path) -> None:
    rewards = np.array(REWARDS)
    # RLOO's divergence is part of TRL's reward, and of ours of the loss
    tried = [
        (name, kl, again)
        for name in LOSSES
        for kl in (0.0, KL)
        for again in (False, True)
        if not (name == "rloo" and kl)
    ]
    asked = {
        "counts": COUNTS,
        "longest": LONGEST,
        "log_p": LOG_P,
        "before": BEFORE,
        "reference": REFERENCE,
        "clip": CLIP,
        "clip_high": CLIP_HIGH,
        "cases": [
            {
                "type": "grpo" if name == "gspo" else name,
                "level": "sequence" if name == "gspo" else "token",
                "kl": kl,
                "again": again,
                "advantages": advantages(LOSSES[name].baseline, rewards).tolist(),
            }
            for name, kl, again in tried
        ],
    }
    found = of_trl(OF_TRL, asked, tmp_path)
    assert len(found) == len(tried) == 18
    for case, (loss, gradient, clipped) in zip(tried, found, strict=True):
        mine = ours(*case)
        assert mine[0] == pytest.approx(loss, abs=1e-12), case
        assert np.abs(np.array(mine[1]) - np.array(gradient)).max() < 1e-12, case
        assert mine[2] == pytest.approx(clipped, abs=1e-6), case  # TRL counts in float32
        assert (0 < mine[2] < 1) == case[2]  # some are clipped, and not all
