"""The chunked loss is F.cross_entropy of the logits in float32, whatever the type of the layer, and so is its gradient."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.trainer_pt_utils import LabelSmoother

from ptune.planning.storage import StorageTracker
from ptune.training.loss import chunked as chunked_loss
from ptune.training.loss.chunked import chunk_rows, loss_and_correct

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def layer(targets: int, hidden: int, vocabulary: int) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, weights and labels that are likely, so that the mean loss is about 2 as in training."""
    generator = torch.Generator().manual_seed(3)
    states, weight = (torch.randn(size, hidden, generator=generator) for size in (targets, vocabulary))
    weight *= 1.5 / hidden**0.5
    return states, weight, F.linear(states, weight).topk(8, dim=-1).indices[:, 3]


def loss_of(
    states: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, device: torch.device
) -> Tensor:
    return loss_and_correct(states, weight, bias, labels, device, count=False)[0]


def by_hand(states: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(states, weight, bias), labels, reduction="sum")


def gradients(loss: Tensor, *of: Tensor) -> list[Tensor]:
    (loss / 7).backward()
    found = [tensor.grad for tensor in of if tensor.grad is not None]
    for tensor in of:
        tensor.grad = None
    return found


def far(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_gradients_are_those_of_cross_entropy_in_float32(trained: bool, biased: bool) -> None:
    states, weight, labels = layer(300, 128, 40_000)  # 209 rows a chunk
    bias = torch.linspace(-1, 1, 40_000) if biased else None
    leaves = [states.requires_grad_()]
    for own in (weight, bias):
        if own is not None:
            leaves.append(own.requires_grad_(trained))
    found = loss_of(states, weight, bias, labels, CPU)
    wanted = by_hand(states, weight, bias, labels)
    assert float(found) == pytest.approx(float(wanted), rel=1e-6)
    pairs = list(zip(gradients(found, *leaves), gradients(wanted, *leaves), strict=True))
    assert len(pairs) == (1 + trained * (1 + biased))
    assert max(far(*pair) for pair in pairs) <= 1e-6


@pytest.mark.parametrize("device", [CPU, GPU])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_smoothed_targets_are_transformers(
    dtype: torch.dtype, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GPU: a GPU's way of computing, on a CPU."""
    if device == GPU:
        monkeypatch.setattr(chunked_loss, "_product", _as_a_gpu_would)
    states, weight, labels = (
        one.to(dtype) if one.is_floating_point() else one for one in layer(300, 64, 5_000)
    )
    bias = torch.linspace(-1, 1, 5_000)
    leaves = [states.requires_grad_(), weight.requires_grad_(dtype == torch.float32), bias.requires_grad_()]
    found = loss_and_correct(states, weight, bias, labels, device, count=False, smoothing=0.2)[0]
    wide, wide_weight = (one.detach().float().requires_grad_(one.requires_grad) for one in (states, weight))
    logits = F.linear(wide, wide_weight, bias)
    wanted = LabelSmoother(epsilon=0.2)({"logits": logits}, labels) * len(labels)
    near = 1e-6 if dtype == torch.float32 else 5e-3
    assert float(found) == pytest.approx(float(wanted), rel=near)
    ours = gradients(found, *leaves)
    theirs = gradients(wanted, *(one for one in (wide, wide_weight, bias)))
    assert max(far(*pair) for pair in zip(ours, theirs, strict=True)) <= 4 * near


@pytest.mark.parametrize("device", [CPU, GPU])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_targets_that_count_differently(
    dtype: torch.dtype, smoothing: float, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    if device == GPU:
        monkeypatch.setattr(chunked_loss, "_product", _as_a_gpu_would)
    monkeypatch.setattr(chunked_loss, "chunk_rows", lambda *_: 70)
    states, weight, labels = (
        one.to(dtype) if one.is_floating_point() else one for one in layer(300, 64, 5_000)
    )
    bias, factors = torch.linspace(-1, 1, 5_000), torch.arange(300, dtype=torch.float64) % 4 / 2
    leaves = [states.requires_grad_(), weight.requires_grad_(dtype == torch.float32), bias.requires_grad_()]
    found = loss_and_correct(
        states, weight, bias, labels, device, count=False, smoothing=smoothing, factors=factors
    )[0]
    wide, wide_weight = (one.detach().float().requires_grad_(one.requires_grad) for one in (states, weight))
    each = F.cross_entropy(
        F.linear(wide, wide_weight, bias), labels, reduction="none", label_smoothing=smoothing
    )
    wanted = (each * factors.float()).sum()
    near = 1e-6 if dtype == torch.float32 else 5e-3
    assert float(found) == pytest.approx(float(wanted), rel=near)
    ours = gradients(found, *leaves)
    theirs = gradients(wanted, *(one for one in (wide, wide_weight, bias)))
    assert max(far(*pair) for pair in zip(ours, theirs, strict=True)) <= 4 * near


def _as_a_gpu_would(left: Tensor, right: Tensor, *, out: Tensor) -> Tensor:
    return out.copy_(left.to(right.dtype).float() @ right.float())


def test_a_layer_in_bfloat16_has_its_loss_summed_in_float32() -> None:
    """In bfloat16 the sum over 2,048 targets would move in steps of 16 to 32."""
    states, weight, labels = layer(2048, 128, 8192)
    states, weight = states.bfloat16(), weight.bfloat16()
    wanted = by_hand(states.float().requires_grad_(), weight.float(), None, labels)
    found = loss_of(states.requires_grad_(), weight, None, labels, CPU)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(float(wanted), rel=1e-4)


@pytest.mark.parametrize("device", [CPU, GPU])
def test_gradients_of_a_layer_in_bfloat16(monkeypatch: pytest.MonkeyPatch, device: torch.device) -> None:
    """Rounded once, in the end. Of a GPU's way the product is computed by hand: CPUs have none that sums in float32."""
    monkeypatch.setattr(chunked_loss, "_product", product)
    monkeypatch.setattr(chunked_loss, "_GPU_LOGITS", 50 * 8192)
    states, weight, labels = layer(300, 128, 8192)
    states, weight = states.bfloat16(), weight.bfloat16()
    wide = states.float().requires_grad_()
    (wanted,) = gradients(by_hand(wide, weight.float(), None, labels), wide)
    states.requires_grad_()
    (found,) = gradients(loss_of(states, weight, None, labels, device), states)
    assert found.dtype == torch.bfloat16
    assert far(found, wanted) <= 3e-3


def test_a_confident_target_keeps_its_gradient_in_16_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A probability of .9995 is 1 in bfloat16: its gradient would be gone."""
    monkeypatch.setattr(chunked_loss, "_product", product)
    weight = torch.eye(4).bfloat16()
    states = torch.tensor([[8.7, 0, 0, 0]]).bfloat16()
    wide = states.float().requires_grad_()
    labels = torch.tensor([0])
    (wanted,) = gradients(by_hand(wide, weight.float(), None, labels), wide)
    states.requires_grad_()
    (found,) = gradients(loss_of(states, weight, None, labels, GPU), states)
    assert far(found, wanted) <= 5e-3


def product(left: Tensor, right: Tensor, *, out: Tensor) -> Tensor:
    return out.copy_(left.to(right.dtype).to(out.dtype) @ right.to(out.dtype))


def test_chunks_are_longer_where_a_layer_is_read_or_cast_for_each() -> None:
    plain, narrow = torch.empty(128_256, 8), torch.empty(128_256, 8, dtype=torch.bfloat16)
    assert chunk_rows(plain, CPU) < chunk_rows(narrow, CPU) < chunk_rows(narrow, GPU) < 1024
    assert chunk_rows(torch.empty(10**10, 0), CPU) == 1


def test_no_copy_of_a_layer_is_made() -> None:
    """Neither its logits, nor its weights in float32."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor) and result.dtype == torch.float32:
                largest = max(largest, result.untyped_storage().nbytes() // 4)
            return result

    states, weight, labels = (
        torch.zeros(200, 512),
        torch.zeros(50_000, 512),
        torch.zeros(200, dtype=torch.long),
    )
    states, weight = states.bfloat16().requires_grad_(), weight.bfloat16()
    with Seen():
        loss_of(states, weight, None, labels, CPU).backward()
    assert 0 < largest <= 10_000_000 < weight.numel()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_of_one_chunk_are_in_memory_at_a_time(dtype: torch.dtype) -> None:
    """With their probabilities in 16 bits, which are half as large."""
    weight = torch.zeros(50_000, 8, dtype=dtype)
    rows = chunk_rows(weight, CPU)
    labels = torch.zeros(3 * rows, dtype=torch.long)
    states = torch.zeros(3 * rows, 8, dtype=dtype, requires_grad=True)
    with StorageTracker() as tracker:
        loss_of(states, weight, None, labels, CPU)
    assert max(tracker.timeline.live()) < 1.6 * 4 * rows * len(weight)


def test_correct_predictions_are_counted_on_request_and_no_gradient_is_computed_without_a_graph() -> None:
    states, weight, _ = layer(50, 16, 300)
    labels = F.linear(states, weight).argmax(-1)
    labels[:10] = (labels[:10] + 1) % 300
    weight.requires_grad_()
    with torch.no_grad():
        loss, correct = loss_and_correct(states, weight, None, labels, CPU, count=True)
    assert int(correct) == 40
    assert not loss.requires_grad
    assert float(loss) == pytest.approx(float(by_hand(states, weight, None, labels)), rel=1e-6)
