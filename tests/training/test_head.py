"""The loss that the head computes itself is the loss of its logits, and a batch's logits never exist."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support import tiny_models
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ptune.methods.lora import Lora
from ptune.training.loss import chunked as chunked_loss
from ptune.training.loss.head import plain_head, replaced_by_loss, replaced_by_losses

CPU = torch.device("cpu")
AFTERWARDS = {
    "gemma2",
    "granite",
    "cohere",
}  # a soft cap, a divisor, a factor (1.0 in the tiny Cohere: nothing)


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_a_head_whose_logits_are_changed_afterwards_is_told_apart(family: str) -> None:
    changes: dict[str, Any] = {"granite": {"logits_scaling": 2.0}, "cohere": {"logit_scale": 0.5}}.get(
        family, {}
    )
    model = tiny_models.model(family, **changes)
    found = plain_head(model)
    assert found is (None if family in AFTERWARDS else model.get_output_embeddings())
    assert not model.training


def test_an_adapted_head_is_no_plain_one() -> None:
    model = Lora(r=2, target_modules=("lm_head",)).apply(tiny_models.model("llama"))
    assert plain_head(model.get_base_model()) is None


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_loss_and_gradients_are_those_of_the_logits(
    monkeypatch: pytest.MonkeyPatch, bias: bool, frozen: bool
) -> None:
    monkeypatch.setattr(chunked_loss, "_CPU_LOGITS", 7 * 50)  # 7 rows a chunk: 3 chunks, the last one short
    torch.manual_seed(0)
    head = nn.Linear(8, 50, bias=bias).double().requires_grad_(not frozen)
    labels = torch.randint(50, (17,))
    hidden = torch.randn(1, 17, 8, dtype=torch.float64, requires_grad=True)
    expected = F.cross_entropy(head(hidden)[0], labels, reduction="sum")
    (3 * expected).backward()
    wanted = [hidden.grad, *(p.grad for p in head.parameters())]
    hidden.grad = None
    head.zero_grad()
    with replaced_by_loss(head, labels, CPU):
        loss, correct = head(hidden)[0, 0]
    (3 * loss).backward()
    assert float(loss) == pytest.approx(float(expected), rel=1e-12)
    assert float(correct) == 0.0  # not counted in training
    for found, grad in zip([hidden.grad, *(p.grad for p in head.parameters())], wanted, strict=True):
        assert (found is None) == (grad is None)
        if found is not None:
            torch.testing.assert_close(found, grad, rtol=1e-9, atol=1e-12)
    with replaced_by_loss(head, labels, CPU, training=False), torch.no_grad():
        loss, correct = head(hidden)[0, 0]
    assert float(loss) == pytest.approx(float(expected), rel=1e-12)
    assert int(correct) == int((head(hidden)[0].argmax(-1) == labels).sum())
    assert head(hidden).shape == (1, 17, 50)  # it is the head again


@pytest.mark.parametrize("replaced", [replaced_by_loss, replaced_by_losses])
def test_no_targets_leave_no_weight_without_a_gradient(replaced: Any) -> None:
    head, hidden = nn.Linear(8, 50), torch.randn(1, 0, 8, requires_grad=True)
    with replaced(head, torch.zeros(0, dtype=torch.long), CPU):
        loss = head(hidden).sum()
    loss.backward()
    assert float(loss) == 0.0
    assert all(one.grad is not None and not one.grad.any() for one in head.parameters())


class _Largest(TorchDispatchMode):
    """The largest tensor that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else [result]:
            if isinstance(value, torch.Tensor):
                self.elements = max(self.elements, value.numel())
        return result


def test_the_logits_of_a_batch_never_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked_loss, "_CPU_LOGITS", 10 * 1000)
    head = nn.Linear(8, 1000, bias=False).requires_grad_(False)
    hidden, labels = torch.randn(1, 200, 8, requires_grad=True), torch.randint(1000, (200,))
    with _Largest() as largest, replaced_by_loss(head, labels, CPU):
        head(hidden)[0, 0, 0].backward()
    assert largest.elements <= 10 * 1000


def test_no_targets_still_give_a_gradient_of_zero() -> None:
    head = nn.Linear(8, 50)
    hidden = torch.randn(1, 0, 8, requires_grad=True)
    with replaced_by_loss(head, torch.zeros(0, dtype=torch.long), CPU):
        loss = head(hidden)[0, 0, 0]
    loss.backward()
    assert float(loss) == 0.0
    assert hidden.grad is not None
