"""The losses of judged answers, and their gradients, are those of their papers, and of TRL."""

from __future__ import annotations

from math import exp
from pathlib import Path
from typing import Any

import pytest
import torch
from support.trl import of_trl

from ptune.config.unpaired_preference import UnpairedPreference
from ptune.tasks.unpaired_preference.losses import losses, right

NOW, BEFORE = [-12.0, -3.5, -40.0, -1.25, -9.0], [-13.0, -3.0, -42.5, -0.75, -9.0]
DESIRABLE = [True, False, False, True, True]
MISMATCHED_NOW, MISMATCHED_BEFORE = [-30.0, -22.0, -9.5, -14.0, -7.0], [-31.5, -21.0, -12.0, -14.5, -6.0]
TOKENS = [6, 2, 20, 1, 3]
SETTINGS: dict[str, dict[str, Any]] = {
    "kto": {"loss": "kto", "beta": 0.3},
    "kto, weighted": {"loss": "kto", "beta": 0.1, "desirable_weight": 1.3, "undesirable_weight": 0.7},
    "kto, no drift": {"loss": "kto", "beta": 0.3, "swap": True},
    "apo_zero": {"loss": "apo_zero", "beta": 0.2, "undesirable_weight": 2.0},
}


def drift(fields: dict[str, Any]) -> float:
    """z: the mean over mismatched answers, at least 0."""
    now, before = MISMATCHED_NOW, MISMATCHED_BEFORE
    if fields.get("swap"):
        now, before = before, now  # the model has become less likely to say them
    mean = sum(one - other for one, other in zip(now, before, strict=True)) / len(now)
    return max(0.0, mean) if fields["loss"] == "kto" else 0.0


def ours(fields: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean loss, and its gradient for the log-probabilities."""
    task = UnpairedPreference(**{name: value for name, value in fields.items() if name != "swap"})
    now = torch.tensor(NOW, dtype=torch.float64, requires_grad=True)
    gained = now - torch.tensor(BEFORE, dtype=torch.float64)
    z = torch.tensor(drift(fields), dtype=torch.float64)
    loss = losses(task, gained, torch.tensor(DESIRABLE), z).mean()
    loss.backward()
    assert now.grad is not None
    return loss.detach(), now.grad


def by_hand(fields: dict[str, Any]) -> list[float]:
    """The losses from odds, as in the paper's value function."""
    found = []
    for now, before, desirable in zip(NOW, BEFORE, DESIRABLE, strict=True):
        ratio = exp(now - before) ** fields["beta"] / exp(drift(fields)) ** fields["beta"]
        value = ratio / (1 + ratio) if desirable else 1 / (1 + ratio)
        weight = fields.get("desirable_weight" if desirable else "undesirable_weight", 1.0)
        found.append(weight * (1 - value))
    return found


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_a_loss_is_that_of_its_paper(name: str) -> None:
    wanted = by_hand(SETTINGS[name])
    loss, gradient = ours(SETTINGS[name])
    assert float(loss) == pytest.approx(sum(wanted) / len(wanted), abs=1e-12)
    assert [bool(one < 0) for one in gradient] == DESIRABLE  # up with what is desirable, down with the others


def test_what_is_right_is_beyond_the_drift() -> None:
    gained = torch.tensor([2.0, 0.5, 0.5, 2.0])
    desirable = torch.tensor([True, True, False, False])
    assert right(gained, desirable, torch.tensor(1.0)).tolist() == [True, False, True, False]


OF_TRL = '''
import json, sys
from types import SimpleNamespace
from unittest.mock import MagicMock
import torch
from trl.trainer.kto_trainer import KTOTrainer

asked = json.load(sys.stdin)
wide = lambda numbers: torch.tensor(numbers, dtype=torch.float64)

def loss_and_gradient(fields):
    """The trainer's own loss, of a model whose log-probabilities of all tokens but the first are 0."""
    sums = wide(asked["now"]).requires_grad_()
    mismatched, known = wide(asked["mismatched_now"]), wide(asked["mismatched_before"])
    if fields.get("swap"):
        mismatched, known = known, mismatched
    longest = max(asked["tokens"]) + 1
    mask = torch.zeros(len(sums), longest)
    for row, count in enumerate(asked["tokens"]):
        mask[row, 1:1 + count] = 1
    each = torch.cat([sums[:, None], torch.zeros(len(sums), longest - 2, dtype=torch.float64)], 1)
    still = each.detach()
    model = lambda **_: SimpleNamespace(log_probs=each, entropy=still, mean_logits=still)
    loss = {"apo_zero": "apo_zero_unpaired"}.get(fields["loss"], fields["loss"])
    me = MagicMock(
        aux_loss_enabled=False, precompute_ref_logps=True, beta=fields["beta"], loss_type=loss,
        calculate_KL=loss == "kto", desirable_weight=fields.get("desirable_weight", 1.0),
        undesirable_weight=fields.get("undesirable_weight", 1.0), _total_train_tokens=0, _tp_size=1,
    )
    me._compute_kl_logps.return_value = mismatched
    me.accelerator.device = "cpu"
    me.accelerator.gather_for_metrics = lambda value: value
    inputs = {
        "input_ids": torch.ones_like(mask, dtype=torch.long), "completion_mask": mask, "attention_mask": mask,
        "label": torch.tensor(asked["desirable"]), "ref_logps": wide(asked["before"]), "ref_KL_logps": known,
    }
    found = KTOTrainer._compute_loss(me, model, inputs, False)
    found.backward()
    return [float(found), sums.grad.tolist()]

print(json.dumps({name: loss_and_gradient(fields) for name, fields in asked["settings"].items()}))
'''


@pytest.mark.slow
def test_a_loss_is_that_of_trl(tmp_path: Path) -> None:
    asked = {
        "now": NOW,
        "before": BEFORE,
        "desirable": DESIRABLE,
        "mismatched_now": MISMATCHED_NOW,
        "mismatched_before": MISMATCHED_BEFORE,
        "tokens": TOKENS,
        "settings": SETTINGS,
    }
    found = of_trl(OF_TRL, asked, tmp_path)
    assert set(found) == set(SETTINGS)
    for name, (their_loss, their_gradient) in found.items():
        loss, gradient = ours(SETTINGS[name])
        assert float(loss) == pytest.approx(their_loss, abs=1e-9), name
        assert gradient.tolist() == pytest.approx(their_gradient, abs=1e-9), name
