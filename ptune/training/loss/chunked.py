"""Cross-entropy of a linear layer's outputs, for a chunk of targets at a time: their logits never exist as a whole.

All sums are in float32 (float64 of a float64 layer), whatever type the weights have. The gradient is computed in the
forward pass, where a chunk's logits are at hand. The layer is never copied to another type as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ptune.training.layers.float_products import linear, times

# Logits of a chunk. In float32: 32 MiB. On a GPU a chunk must be long enough to compute for as long as it reads the layer:
# 256 MiB are some 500 targets of a vocabulary of 128,256. On a CPU each chunk casts a 16-bit layer anew: 64 MiB.
_CPU_LOGITS, _GPU_LOGITS, _CAST_LOGITS = 2**23, 2**26, 2**24
_SLICE_WEIGHTS = 2**20  # weights of a 16-bit layer that a CPU casts at a time: 4 MiB, which stay in its cache


def chunk_rows(weight: Tensor, device: torch.device) -> int:
    """Targets in a chunk, for a layer with weights [vocab, hidden] on `device`."""
    logits = _GPU_LOGITS if device.type == "cuda" else _CPU_LOGITS if _wide(weight) else _CAST_LOGITS
    return max(1, logits // weight.shape[0])


def loss_and_correct(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    device: torch.device,
    *,
    count: bool,
    smoothing: float = 0.0,
    factors: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Sum of the cross-entropies of `labels` [targets], and with `count` how many are the most likely token, else 0.

    hidden: [targets, hidden]; weight: [vocab, hidden]; bias: [vocab]. The sum can be differentiated once.
    device: whose way of computing to take. It is theirs, except in a plan, whose tensors have no data.
    smoothing: share of each target that is spread over the whole vocabulary (Szegedy et al. 2016,
    https://arxiv.org/abs/1512.00567).
    factors: how often each cross-entropy counts in the sum, [targets]; default: once.
    """
    if not torch.is_grad_enabled():  # else gradients of trained weights would be computed for nothing
        hidden, weight, bias = hidden.detach(), weight.detach(), None if bias is None else bias.detach()
    factors = None if factors is None else factors.to(accumulator(weight))
    sums: tuple[Tensor, Tensor] = _ChunkedLoss.apply(
        hidden, weight, bias, labels, device, count, smoothing, factors
    )
    return sums


def each_loss(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, device: torch.device
) -> Tensor:
    """The cross-entropy of each of `labels`, [targets]; arguments as of `loss_and_correct`."""
    if not torch.is_grad_enabled():
        hidden, weight, bias = hidden.detach(), weight.detach(), None if bias is None else bias.detach()
    losses: Tensor = _EachLoss.apply(hidden, weight, bias, labels, device)
    return losses


class _ChunkedLoss(torch.autograd.Function):
    """The gradients of the loss are computed with it; the backward pass only scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        device: torch.device,
        count: bool,
        smoothing: float,
        factors: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        gradients = Gradients.of(hidden, weight, bias, ctx.needs_input_grad)
        rows = chunk_rows(weight, device)
        loss, correct = (hidden.new_zeros((), dtype=accumulator(weight)) for _ in range(2))
        for number, (some, wanted) in enumerate(zip(hidden.split(rows), labels.split(rows), strict=True)):
            logits = logits_of(some, weight, bias, device)
            if count:
                correct += (logits.argmax(1) == wanted).sum()
            logits -= logits.amax(1, keepdim=True)
            of_labels = logits.gather(1, wanted[:, None])[:, 0]
            if smoothing:
                of_labels = of_labels.mul_(1 - smoothing).add_(logits.mean(1), alpha=smoothing)
            normaliser = logits.exp_().sum(1)
            of = None if factors is None else factors[number * rows :][: len(wanted)]
            losses = normaliser.log() - of_labels
            loss += losses.sum() if of is None else losses @ of
            if gradients.wanted:
                probabilities = logits.mul_((1 / normaliser)[:, None])
                if smoothing:
                    probabilities -= smoothing / len(weight)
                place, share = number * rows, 1 - smoothing
                gradients.add(
                    probabilities, some, weight, wanted, device, first=place, share=share, factors=of
                )
                del probabilities
            del logits  # before the next chunk's are there
        ctx.gradients = gradients
        ctx.mark_non_differentiable(correct)
        return loss, correct

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, factor: Tensor, _: None) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        return *gradients.scaled(factor), None, None, None, None, None


class _EachLoss(torch.autograd.Function):
    """A frozen layer's gradients are computed with the losses; a trained one's need the factor of each target first."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, device: torch.device
    ) -> Tensor:
        frozen = not any(ctx.needs_input_grad[1:3])
        gradients = Gradients.of(hidden, weight, bias, ctx.needs_input_grad) if frozen else None
        rows = chunk_rows(weight, device)
        losses = hidden.new_empty(len(labels), dtype=accumulator(weight))
        for number, (some, wanted) in enumerate(zip(hidden.split(rows), labels.split(rows), strict=True)):
            first = number * rows
            part, probabilities = _losses(logits_of(some, weight, bias, device), wanted)
            losses[first : first + len(wanted)] = part
            if gradients is not None and gradients.wanted:
                gradients.add(probabilities, some, weight, wanted, device, first=first, share=1.0)
            del probabilities  # before the next chunk's are there
        ctx.gradients, ctx.device = gradients, device
        if gradients is None:
            ctx.save_for_backward(hidden, weight, bias, labels)
        return losses

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, factors: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is not None:
            unscaled = ctx.gradients.hidden
            return None if unscaled is None else unscaled * factors[:, None].to(unscaled.dtype), *[None] * 4
        hidden, weight, bias, labels = ctx.saved_tensors
        gradients = Gradients.of(hidden, weight, bias, ctx.needs_input_grad)
        rows = chunk_rows(weight, ctx.device)
        parts = zip(hidden.split(rows), labels.split(rows), factors.split(rows), strict=True)
        for number, (some, wanted, of) in enumerate(parts):
            _, probabilities = _losses(logits_of(some, weight, bias, ctx.device), wanted)
            gradients.add(
                probabilities, some, weight, wanted, ctx.device, first=number * rows, share=1.0, factors=of
            )
        one = factors.new_ones(())
        return *gradients.scaled(one), None, None


def _losses(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropies [rows] and probabilities [rows, vocab]; overwrites the logits."""
    logits -= logits.amax(1, keepdim=True)
    of_labels = logits.gather(1, labels[:, None])[:, 0]
    normaliser = logits.exp_().sum(1)
    return normaliser.log() - of_labels, logits.mul_((1 / normaliser)[:, None])


@dataclass(frozen=True)
class Gradients:
    """The gradients of the loss that are needed: of the hidden states, the weights and the bias."""

    hidden: Tensor | None
    weight: Tensor | None  # summed in float32
    bias: Tensor | None  # summed in float32
    dtype: torch.dtype  # of the layer

    @classmethod
    def of(cls, hidden: Tensor, weight: Tensor, bias: Tensor | None, needed: Sequence[bool]) -> Gradients:
        sums = accumulator(weight)
        return cls(
            torch.empty_like(hidden) if needed[0] else None,
            torch.zeros_like(weight, dtype=sums) if needed[1] else None,
            torch.zeros_like(bias, dtype=sums) if bias is not None and needed[2] else None,
            weight.dtype,
        )

    @property
    def wanted(self) -> bool:
        return any(gradient is not None for gradient in (self.hidden, self.weight, self.bias))

    def add(
        self,
        probabilities: Tensor,
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        device: torch.device,
        *,
        first: int,
        share: float,
        factors: Tensor | None = None,
    ) -> None:
        """Adds a chunk. It may overwrite the probabilities [rows, vocab].

        first: number of its first target; share: of a target that is the label's own; factors: of each target's loss, [rows];
        default: 1.
        """
        if self.bias is not None:
            of = torch.ones_like(probabilities[:, 0]) if factors is None else factors
            self.bias.add_(probabilities.sum(0) if factors is None else of @ probabilities)
            self.bias.index_add_(0, labels, of, alpha=-share)
        if self.weight is not None:
            states = hidden.to(self.weight.dtype)
            states = states if factors is None else states * factors[:, None]
            self.weight.addmm_(probabilities.T, states)
            self.weight.index_add_(0, labels, states, alpha=-share)
        if self.hidden is not None:
            own = _of_hidden(probabilities, weight, labels, device, share)
            self.hidden[first : first + len(labels)] = own if factors is None else own * factors[:, None]

    def scaled(self, factor: Tensor) -> Iterator[Tensor | None]:
        """Times `factor`, in the layer's type; in place, as a weight's gradient is as large as the layer."""
        for gradient in (self.hidden, self.weight, self.bias):
            yield None if gradient is None else gradient.mul_(factor).to(self.dtype)


def logits_of(hidden: Tensor, weight: Tensor, bias: Tensor | None, device: torch.device) -> Tensor:
    """[rows, vocab], in float32 at least."""
    if _wide(weight) and hidden.dtype == weight.dtype:
        return linear(hidden, weight, bias)
    logits = hidden.new_empty(len(hidden), len(weight), dtype=accumulator(weight))
    for first, part in _parts(weight, device):
        _product(hidden, part.T, out=logits[:, first : first + len(part)])
    return logits if bias is None else logits.add_(bias)


def _of_hidden(
    probabilities: Tensor, weight: Tensor, labels: Tensor, device: torch.device, share: float
) -> Tensor:
    """Gradient [rows, hidden] with respect to the hidden states of a chunk. It may overwrite the probabilities."""
    if _wide(weight):
        return times(probabilities, weight).sub_(weight[labels], alpha=share)
    # Rounded to 16 bits, a probability near 1 would be 1: its difference from 1 must be taken first.
    probabilities.scatter_add_(1, labels[:, None], torch.full_like(probabilities[:, :1], -share))
    if device.type == "cuda":
        return _product(probabilities, weight, out=probabilities.new_empty(len(labels), weight.shape[1]))
    return probabilities.to(weight.dtype) @ weight  # rounded here or by the caller


def _product(left: Tensor, right: Tensor, *, out: Tensor) -> Tensor:
    """Matrix product into `out`, summed in its type; `left` is first rounded to the type of `right`."""
    if right.dtype == out.dtype:
        return torch.mm(left.to(right.dtype), right, out=out)
    return torch.mm(left.to(right.dtype), right, out_dtype=out.dtype, out=out)


def _parts(weight: Tensor, device: torch.device) -> Iterator[tuple[int, Tensor]]:
    """The layer's rows as they enter a product, with the number of the first row of each part.

    A GPU multiplies 16-bit numbers and sums in float32. A CPU's kernels round the result to 16 bits, so a CPU casts.
    """
    if _wide(weight) or device.type == "cuda":
        yield 0, weight
        return
    rows = max(1, _SLICE_WEIGHTS // weight.shape[1])
    for first in range(0, len(weight), rows):
        yield first, weight[first : first + rows].float()


def accumulator(weight: Tensor) -> torch.dtype:
    return torch.promote_types(weight.dtype, torch.float32)


def _wide(weight: Tensor) -> bool:
    return weight.dtype == accumulator(weight)
