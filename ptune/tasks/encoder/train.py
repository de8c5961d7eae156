"""Training side of texts and words: padded batches, and the losses of labels, numbers and tags."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import nn

from ptune.codecs.labels import Labels
from ptune.data.examples.sequences import SequenceExample
from ptune.data.shapes.label_values import Target
from ptune.training.objective import Score
from ptune.training.rows.packing import ALONE, Share
from ptune.training.rows.padding import padded_rows


@dataclass(frozen=True)
class SequenceBatch:
    """Examples side by side, padded on the right to the longest."""

    inputs: dict[
        str, torch.Tensor
    ]  # input_ids, attention_mask and, if the model uses them, token_type_ids: [rows, seq]
    rows: torch.Tensor  # [n] rows whose logits are wanted: one per text, or one per word
    columns: torch.Tensor | None  # [n] first token of each word
    labels: torch.Tensor  # [n] indices, [n, labels] 0 or 1, or [n] numbers
    weights: torch.Tensor | None = None  # [n] how often each counts while it trains; None: once


@dataclass(frozen=True)
class Loss:
    """The loss summed over targets: cross-entropy, binary cross-entropy or squared error of a head's outputs."""

    labels: Labels
    weights: torch.Tensor | None = None  # [labels]: of a class, or of the presence of a label
    smoothing: float = 0.0  # share of the target that is spread over all labels

    def __call__(
        self, logits: torch.Tensor, wanted: torch.Tensor, factors: torch.Tensor | None = None
    ) -> torch.Tensor:
        """[n, labels] logits and what they should be -> []. factors: how often each counts, [n]; default: once."""
        if factors is None:
            return self._of(logits, wanted, "sum")
        each = self._of(logits, wanted, "none")
        return factors.to(each.dtype) @ (each.sum(1) if self.labels.problem == "multi" else each)

    def _of(self, logits: torch.Tensor, wanted: torch.Tensor, reduction: str) -> torch.Tensor:
        if self.labels.problem == "regression":
            return F.mse_loss(logits.squeeze(-1), wanted.to(logits.dtype), reduction=reduction)
        if self.labels.problem == "multi":
            smooth = wanted.to(logits.dtype) * (1 - self.smoothing) + self.smoothing / 2
            return F.binary_cross_entropy_with_logits(
                logits, smooth, pos_weight=self.weights, reduction=reduction
            )
        return F.cross_entropy(
            logits, wanted, weight=self.weights, label_smoothing=self.smoothing, reduction=reduction
        )

    def correct(self, logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """[] how many targets are right; a number never is."""
        if self.labels.problem == "regression":
            return logits.new_full((), torch.nan)
        if self.labels.problem == "multi":
            return ((logits > 0) == wanted.bool()).sum()
        return (logits.argmax(-1) == wanted).sum()

    def constant(self, targets: Iterable[Target], often: Sequence[float] | None = None) -> float | None:
        """Loss per target of the best constant answer: every label gets its share, weights included. None for numbers.

        Of `tags` a target is the tags of a sentence; of `multi` the labels that apply, each of which is a target.
        often: how often each target counts; default: once.
        """
        if self.labels.problem not in ("single", "tags", "multi"):
            return None
        sets = [target if isinstance(target, tuple) else (target,) for target in targets]
        often = [1.0] * len(sets) if often is None else often
        counts, weights = self._counts(sets, often), self._weights()
        smoothing = self.smoothing / (2 if self.labels.problem == "multi" else len(self.labels))
        if self.labels.problem == "multi":
            shares = (1 - self.smoothing) * counts / (sum(often) or 1) + smoothing
            present, absent = shares * weights, 1 - shares
            chance = present / (present + absent)
            return float(-(present.xlogy(chance) + absent.xlogy(1 - chance)).mean())
        mass = weights * counts / (float(counts.sum()) or 1.0)
        mass = (1 - self.smoothing) * mass + smoothing * weights * float(counts.sum() > 0)
        return float(-mass.xlogy(mass / mass.sum()).sum()) if float(mass.sum()) else None

    def shares(self, targets: Iterable[tuple[int, ...]]) -> torch.Tensor:
        """[labels] the share that the best constant answer gives each tag; a tag that does not occur counts as one."""
        sets = list(targets)
        mass = self._weights() * self._counts(sets, [1.0] * len(sets)).clamp(min=1)
        return mass / mass.sum()

    def _counts(self, sets: Sequence[tuple[float, ...]], often: Sequence[float]) -> torch.Tensor:
        """[labels] how often each occurs."""
        seen: defaultdict[int, float] = defaultdict(float)
        for indices, weight in zip(sets, often, strict=True):
            for index in indices:
                seen[int(index)] += weight
        return torch.tensor([seen[index] for index in range(len(self.labels))], dtype=torch.float64)

    def _weights(self) -> torch.Tensor:
        ones = torch.ones(len(self.labels), dtype=torch.float64)
        return ones if self.weights is None else self.weights.double().cpu()


def balanced(examples: Sequence[SequenceExample], labels: Labels) -> torch.Tensor:
    """Weights [labels] that make every class count equally; their mean over the targets is 1.

    If several labels may apply: how much rarer each is than its absence.
    """
    targets = [example.target for example in examples]
    occurrences = Counter(
        index for target in targets for index in (target if isinstance(target, tuple) else (target,))
    )
    counts = torch.tensor([occurrences[index] for index in range(len(labels))], dtype=torch.float32)
    if labels.problem == "multi":
        return torch.where(counts > 0, (len(examples) - counts) / counts.clamp(min=1), 1.0)
    seen = counts > 0  # the weight of a class without examples does not matter
    return torch.where(seen, counts.sum() / (seen.sum() * counts.clamp(min=1)), 1.0)


@dataclass(frozen=True)
class SequenceObjective:
    """Loss of texts or words, summed over the targets; a text with several labels has one target per label.

    In training each counts as often as its example's weight says. In validation it counts once.
    """

    loss: Loss
    max_tokens: int  # most tokens of one forward pass, padding included
    device: torch.device
    pad_id: int
    type_ids: bool
    unit = "tokens"

    def size(self, example: SequenceExample) -> int:
        """Tokens."""
        return len(example)

    def targets(self, example: SequenceExample) -> float:
        """Words of a tagged sentence, labels of a text that may have several, else 1; each as often as it counts."""
        problem = self.loss.labels.problem
        own = len(example.words) if problem == "tags" else len(self.loss.labels) if problem == "multi" else 1
        return own if example.weight == 1 else example.weight * own

    def batches(self, examples: Sequence[SequenceExample], share: Share = ALONE) -> Iterator[SequenceBatch]:
        """Every `processes`-th batch, built on demand; a batch without an example has no target."""
        rows = padded_rows([len(example) for example in examples], self.max_tokens, share.processes)
        for row in rows[share.process :: share.processes]:
            yield self.batch([examples[index] for index in row]) if row else self._idle(examples[0])

    def score(self, model: nn.Module, batch: SequenceBatch) -> Score:
        """Loss and correct predictions, summed over the batch's targets."""
        logits = self.logits(model, batch)
        if model.training and batch.weights is not None:
            loss = self.loss(logits, batch.labels, batch.weights)
            each = batch.labels.shape[1] if batch.labels.dim() == 2 else 1
            return Score(loss, loss.new_zeros(()), each * float(batch.weights.sum()))
        loss = self.loss(logits, batch.labels)
        right = loss.new_zeros(()) if model.training else self.loss.correct(logits, batch.labels)
        return Score(loss, right, batch.labels.numel())

    def constant_loss(self, examples: Sequence[SequenceExample]) -> float | None:
        """See `Loss.constant`."""
        often = [example.weight for example in examples]
        return self.loss.constant((example.target for example in examples), often)

    def logits(self, model: nn.Module, batch: SequenceBatch) -> torch.Tensor:
        """[n, labels] in float32 at least: of each text or word."""
        logits: torch.Tensor = model(**batch.inputs).logits
        logits = logits[batch.rows] if batch.columns is None else logits[batch.rows, batch.columns]
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def batch(self, examples: Sequence[SequenceExample]) -> SequenceBatch:
        """These examples side by side, in their order."""
        longest = max(map(len, examples))

        def padded(values: Sequence[Sequence[int]], filler: int) -> torch.Tensor:
            rows = [[*value, *[filler] * (longest - len(value))] for value in values]
            return torch.tensor(rows, device=self.device)

        inputs = {
            "input_ids": padded([example.ids for example in examples], self.pad_id),
            "attention_mask": padded([[1] * len(example) for example in examples], 0),
        }
        if self.type_ids:
            inputs["token_type_ids"] = padded([example.type_ids for example in examples], 0)
        tagged = self.loss.labels.problem == "tags"
        rows = [row for row, example in enumerate(examples) for _ in (example.words if tagged else (0,))]
        columns = [column for example in examples for column in example.words]
        return SequenceBatch(
            inputs,
            torch.tensor(rows, dtype=torch.long, device=self.device),
            torch.tensor(columns, dtype=torch.long, device=self.device) if tagged else None,
            self._labels(examples),
            self._weights(examples, rows),
        )

    def _weights(self, examples: Sequence[SequenceExample], rows: Sequence[int]) -> torch.Tensor | None:
        """[n] in float64; None where all examples count once, so that their loss is summed as ever, to the bit."""
        if all(example.weight == 1 for example in examples):
            return None
        return torch.tensor([examples[row].weight for row in rows], dtype=torch.float64, device=self.device)

    def _labels(self, examples: Sequence[SequenceExample]) -> torch.Tensor:
        targets = [example.target for example in examples]
        problem, count = self.loss.labels.problem, len(self.loss.labels)
        if problem == "regression":
            return torch.tensor(targets, dtype=torch.float32, device=self.device)
        if problem == "multi":
            sets = [set(target) if isinstance(target, tuple) else {target} for target in targets]
            return torch.tensor(
                [[float(index in present) for index in range(count)] for present in sets], device=self.device
            )
        flat = [index for target in targets for index in (target if isinstance(target, tuple) else (target,))]
        return torch.tensor(flat, dtype=torch.long, device=self.device)

    def _idle(self, example: SequenceExample) -> SequenceBatch:
        """A batch without a target, for a process that has no example of its own."""
        batch = self.batch([example])
        columns = None if batch.columns is None else batch.columns[:0]
        return replace(batch, rows=batch.rows[:0], columns=columns, labels=batch.labels[:0], weights=None)
