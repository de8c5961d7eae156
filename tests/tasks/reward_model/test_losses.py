"""The loss of rewards, and its gradient, are those of its papers, and of TRL."""

from __future__ import annotations

from math import exp, log
from pathlib import Path

import pytest
import torch
from support.trl import of_trl

from ptune.tasks.reward_model.objective import losses

CHOSEN, REJECTED, MARGINS = [1.25, -0.5, 0.0, 3.0], [0.25, 1.5, 0.0, -2.0], [0.5, 0.0, 1.0, 2.0]
SETTINGS = {"plain": (False, 0.0), "margins": (True, 0.0), "centred": (False, 0.03), "both": (True, 0.01)}


def ours(margins: bool, center: float) -> tuple[float, list[list[float]]]:
    """The mean loss, and its gradients for both sides."""
    chosen, rejected = (
        torch.tensor(side, dtype=torch.float64, requires_grad=True) for side in (CHOSEN, REJECTED)
    )
    by = torch.tensor(MARGINS if margins else [0.0] * 4, dtype=torch.float64)
    loss = losses(chosen, rejected, by, center).mean()
    loss.backward()
    assert chosen.grad is not None
    assert rejected.grad is not None
    return float(loss.detach()), [chosen.grad.tolist(), rejected.grad.tolist()]


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_the_loss_is_that_of_bradley_and_terry(name: str) -> None:
    margins, center = SETTINGS[name]
    wanted = [
        -log(exp(c) / (exp(c) + exp(r + m * margins))) + center * (c + r) ** 2
        for c, r, m in zip(CHOSEN, REJECTED, MARGINS, strict=True)
    ]
    assert ours(margins, center)[0] == pytest.approx(sum(wanted) / 4, abs=1e-12)


OF_TRL = """
import json, sys
from collections import defaultdict
from types import SimpleNamespace
from unittest.mock import MagicMock
import torch
from trl.trainer.reward_trainer import RewardTrainer

asked = json.load(sys.stdin)
found = {}
for name, (margins, center) in asked["settings"].items():
    sides = [torch.tensor(side, dtype=torch.float64, requires_grad=True) for side in asked["sides"]]
    me = MagicMock(_total_train_tokens=0, _tp_size=1, _metrics=defaultdict(lambda: defaultdict(list)))
    me.args.center_rewards_coefficient = center or None
    me.accelerator.gather = me.accelerator.gather_for_metrics = lambda value: value
    inputs = {"attention_mask": torch.ones(8, 3)}
    if margins:
        inputs["margin"] = torch.tensor(asked["margins"], dtype=torch.float64)
    model = lambda **_: SimpleNamespace(logits=torch.cat(sides)[:, None])
    loss = RewardTrainer.compute_loss(me, model, inputs)
    loss.backward()
    found[name] = [float(loss.detach()), [side.grad.tolist() for side in sides]]
print(json.dumps(found))
"""


@pytest.mark.slow
def test_the_loss_is_that_of_trl(tmp_path: Path) -> None:
    asked = {"sides": [CHOSEN, REJECTED], "margins": MARGINS, "settings": SETTINGS}
    found = of_trl(OF_TRL, asked, tmp_path)
    assert set(found) == set(SETTINGS)
    for name, (their_loss, their_gradients) in found.items():
        loss, gradients = ours(*SETTINGS[name])
        assert loss == pytest.approx(their_loss, abs=1e-9), name
        for mine, theirs in zip(gradients, their_gradients, strict=True):
            assert mine == pytest.approx(theirs, abs=1e-9), name
