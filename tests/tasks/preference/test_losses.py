"""The losses, and their gradients, are those of their papers, written out here in another way, and of TRL."""

from __future__ import annotations

from math import exp, log
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.trl import of_trl

from ptune.config.preference import LOSSES, Preference
from ptune.tasks.preference.losses import Answers, losses, won

CHOSEN, REJECTED = [-12.0, -3.5, -40.0, -1.25], [-11.0, -9.0, -38.0, -1.5]
CHOSEN_BEFORE, REJECTED_BEFORE = [-13.0, -3.0, -42.5, -1.75], [-11.5, -4.0, -38.0, -0.5]
CHOSEN_TOKENS, REJECTED_TOKENS = [6, 2, 20, 1], [5, 4, 17, 3]
SETTINGS: dict[str, dict[str, Any]] = {
    "dpo": {"beta": 0.3},
    "dpo, smoothed": {"loss": "dpo", "beta": 0.3, "label_smoothing": 0.1},
    "ipo": {"beta": 0.2},
    "robust": {"beta": 0.3, "label_smoothing": 0.2},
    "hinge": {"beta": 0.4},
    "apo_zero": {"beta": 0.1},
    "orpo": {"beta": 0.1},
    "simpo": {"beta": 2.0, "margin": 0.5},
    "cpo": {"beta": 0.1},
    "cpo, smoothed": {"loss": "cpo", "beta": 0.1, "label_smoothing": 0.2, "sft_weight": 0.0},
}
KIND = {name: Preference(**{"loss": name, **fields}) for name, fields in SETTINGS.items()}


def answers(chosen: list[float], rejected: list[float]) -> Answers:
    better, worse = (
        torch.tensor(side, dtype=torch.float64, requires_grad=True) for side in (chosen, rejected)
    )
    return Answers(better, worse, torch.tensor(CHOSEN_TOKENS), torch.tensor(REJECTED_TOKENS))


def sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x))


def by_hand(task: Preference, pair: int) -> float:
    """The loss of a pair, from probabilities instead of their logarithms where that is possible."""
    c, r, c0, r0 = (side[pair] for side in (CHOSEN, REJECTED, CHOSEN_BEFORE, REJECTED_BEFORE))
    n, m, b, e = CHOSEN_TOKENS[pair], REJECTED_TOKENS[pair], task.strength, task.label_smoothing
    better = exp(c - c0) ** b / (exp(c - c0) ** b + exp(r - r0) ** b)  # Bradley and Terry
    match task.loss:
        case "dpo":
            return -(1 - e) * log(better) - e * log(1 - better)
        case "robust":
            return -((1 - e) * log(better) - e * log(1 - better)) / (1 - 2 * e)
        case "ipo":
            return ((c - c0) / n - (r - r0) / m - 0.5 / b) ** 2
        case "hinge":
            return max(0.0, 1 - b * ((c - c0) - (r - r0)))
        case "apo_zero":
            return (1 - sigmoid(b * (c - c0))) + sigmoid(b * (r - r0))
        case "orpo":
            p, q = exp(c / n), exp(r / m)
            odds = (p / (1 - p)) / (q / (1 - q))
            return -c / n - b * log(odds / (1 + odds))
        case "simpo":
            return log(1 + exp(-(b * c / n - b * r / m - task.margin)))
        case "cpo":
            chosen = exp(c) ** b / (exp(c) ** b + exp(r) ** b)
            return -(1 - e) * log(chosen) - e * log(1 - chosen) - task.sft * c / n
    raise AssertionError(task.loss)


def test_every_loss_is_tried_here() -> None:
    assert {task.loss for task in KIND.values()} == set(LOSSES)


@pytest.mark.parametrize("name", sorted(KIND))
def test_a_loss_is_that_of_its_paper(name: str) -> None:
    task = KIND[name]
    found = losses(task, answers(CHOSEN, REJECTED), answers(CHOSEN_BEFORE, REJECTED_BEFORE))
    assert found.tolist() == pytest.approx([by_hand(task, pair) for pair in range(4)], abs=1e-12)


@pytest.mark.parametrize("name", sorted(KIND))
def test_a_loss_pulls_the_better_answer_up_and_the_worse_down(name: str) -> None:
    model = answers(CHOSEN, REJECTED)
    losses(KIND[name], model, answers(CHOSEN_BEFORE, REJECTED_BEFORE)).sum().backward()
    assert model.chosen.grad is not None
    assert model.rejected.grad is not None
    # ipo pulls back what is too far, and hinge is content with it
    assert name == "ipo" or bool((model.chosen.grad <= 0).all() and (model.rejected.grad >= 0).all())
    assert bool((model.chosen.grad < 0).any())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("certain", ["chosen", "rejected", "both"])
def test_an_answer_that_is_certain_leaves_orpo_finite(certain: str, dtype: torch.dtype) -> None:
    sides = {"chosen": -0.7, "rejected": -1.3} | dict.fromkeys(
        ("chosen", "rejected") if certain == "both" else (certain,), 0.0
    )
    chosen, rejected = (
        torch.tensor([side, -2.0], dtype=dtype, requires_grad=True) for side in sides.values()
    )
    found = losses(KIND["orpo"], Answers(chosen, rejected, torch.ones(2), torch.ones(2)), None)
    found.sum().backward()
    assert chosen.grad is not None
    assert rejected.grad is not None
    assert bool(torch.cat([found, chosen.grad, rejected.grad]).isfinite().all())
    other = losses(KIND["orpo"], Answers(chosen[1:], rejected[1:], torch.ones(1), torch.ones(1)), None)
    assert found[1:].equal(other)


@given(st.lists(st.tuples(st.floats(-50, -0.01), st.floats(-50, -0.01)), min_size=4, max_size=4))
def test_before_training_no_answer_is_preferred(pairs: list[tuple[float, float]]) -> None:
    same = answers([one for one, _ in pairs], [other for _, other in pairs])
    loss = losses(Preference(), same, same)
    assert loss.tolist() == pytest.approx([log(2)] * 4)
    assert not won(Preference(), same, same).any()


def test_what_is_preferred_is_told_as_the_loss_compares() -> None:
    model, before = answers(CHOSEN, REJECTED), answers(CHOSEN_BEFORE, REJECTED_BEFORE)
    assert won(Preference(loss="dpo"), model, before).tolist() == [
        c - c0 > r - r0 for c, c0, r, r0 in zip(CHOSEN, CHOSEN_BEFORE, REJECTED, REJECTED_BEFORE, strict=True)
    ]
    assert won(Preference(loss="cpo"), model, None).tolist() == [False, True, False, True]
    assert won(Preference(loss="simpo"), model, None).tolist() == [
        c / n > r / m for c, n, r, m in zip(CHOSEN, CHOSEN_TOKENS, REJECTED, REJECTED_TOKENS, strict=True)
    ]


OF_TRL = '''
import json, sys
from types import SimpleNamespace
from unittest.mock import MagicMock
import torch
from trl.trainer.dpo_trainer import DPOTrainer
from trl.experimental.cpo.cpo_trainer import CPOTrainer
from trl.experimental.orpo.orpo_trainer import ORPOTrainer

asked = json.load(sys.stdin)
wide = lambda numbers: torch.tensor(numbers, dtype=torch.float64)
chosen, rejected, chosen_before, rejected_before = map(wide, asked["answers"])
tokens = asked["tokens"]

def dpo(name, fields):
    """The trainer's own loss, of a model whose log-probabilities of all tokens but the first are 0."""
    longest = max(sum(tokens, [])) + 1
    mask = torch.zeros(2 * len(tokens[0]), longest)
    sums = torch.cat([chosen, rejected])
    each = torch.zeros(len(sums), longest - 1, dtype=torch.float64)
    for row, count in enumerate(sum(tokens, [])):
        mask[row, 1:1 + count] = 1
        each[row, 0] = sums[row]
    model = lambda **_: SimpleNamespace(log_probs=each, entropy=each, mean_logits=each, is_top1=each < 0)
    me = MagicMock(
        aux_loss_enabled=False, ld_alpha=None, precompute_ref_logps=True, f_divergence_type="reverse_kl",
        loss_types=[name], loss_weights=[1.0], beta=fields["beta"], use_weighting=False,
        label_smoothing=fields.get("label_smoothing", 0.0),
    )
    me.accelerator.device, me.accelerator.gather = "cpu", lambda value: value
    me.accelerator.gather_for_metrics, me._total_train_tokens, me._tp_size = me.accelerator.gather, 0, 1
    inputs = {
        "input_ids": torch.ones_like(mask, dtype=torch.long), "completion_mask": mask, "attention_mask": mask,
        "ref_chosen_logps": chosen_before, "ref_rejected_logps": rejected_before,
    }
    return float(DPOTrainer._compute_loss(me, model, inputs, False))

def cpo(name, fields):
    me = SimpleNamespace(alpha=0.0, accelerator=SimpleNamespace(device="cpu"), loss_type=name, beta=fields["beta"],
                         label_smoothing=fields.get("label_smoothing", 0.0), simpo_gamma=fields.get("margin", 0.0))
    one, other = chosen, rejected
    if name == "simpo":
        one, other = chosen / wide(tokens[0]), rejected / wide(tokens[1])
    return float(CPOTrainer.cpo_loss(me, one, other)[0].mean())

def orpo(fields):
    me = SimpleNamespace(beta=fields["beta"], accelerator=SimpleNamespace(device="cpu"))
    return -float(ORPOTrainer.odds_ratio_loss(me, chosen / wide(tokens[0]), rejected / wide(tokens[1]))[0].mean())

found = {}
for name, fields in asked["settings"].items():
    loss = fields["loss"]
    if loss in ("simpo", "cpo"):
        found[name] = cpo({"cpo": "sigmoid"}.get(loss, loss), fields)
    elif loss == "orpo":
        found[name] = orpo(fields)
    else:
        found[name] = dpo({"dpo": "sigmoid"}.get(loss, loss), fields)
print(json.dumps(found))
'''


@pytest.mark.slow
def test_a_loss_is_that_of_trl(tmp_path: Path) -> None:
    # TRL's DPO has no smoothing but in robust
    tried = {
        name: {"loss": KIND[name].loss, **fields}
        for name, fields in SETTINGS.items()
        if name != "dpo, smoothed"
    }
    asked = {
        "answers": [CHOSEN, REJECTED, CHOSEN_BEFORE, REJECTED_BEFORE],
        "tokens": [CHOSEN_TOKENS, REJECTED_TOKENS],
        "settings": tried,
    }
    found = of_trl(OF_TRL, asked, tmp_path)
    for name, theirs in found.items():
        task = KIND[name].model_copy(update={"sft_weight": 0.0})
        ours = losses(task, answers(CHOSEN, REJECTED), answers(CHOSEN_BEFORE, REJECTED_BEFORE)).mean()
        rounding = 1e-6 if task.loss == "orpo" else 1e-12  # which TRL computes in float32
        assert float(ours) == pytest.approx(theirs, abs=rounding), name
    assert len(found) == len(tried)
