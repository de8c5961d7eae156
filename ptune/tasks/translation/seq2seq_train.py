"""Training side of an encoder-decoder: padded batches of sources and targets, and cross-entropy at the target's tokens."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ptune.codecs.seq2seq import Writing
from ptune.data.examples.seq2seq import Seq2SeqExample
from ptune.training.loss.head import replaced_by_loss
from ptune.training.objective import Score, score_of
from ptune.training.rows.packing import ALONE, Share
from ptune.training.rows.padding import padded_rows


@dataclass(frozen=True)
class Seq2SeqBatch:
    """Pairs side by side, sources and targets each padded on the right to the longest."""

    inputs: dict[str, Tensor]  # input_ids, attention_mask [rows, source]; decoder_input_ids [rows, target]
    rows: Tensor  # [targets] where the real targets are
    columns: Tensor  # [targets]
    labels: Tensor  # [targets] what they are


@dataclass(frozen=True)
class Seq2SeqObjective:
    """Sum of cross-entropies over the target's tokens; the head computes nothing where there is only padding."""

    writing: Writing
    pad_id: int
    max_tokens: int  # most tokens of one forward pass, padding included
    device: torch.device
    model: PreTrainedModel  # the base, whose head is given what it is to compute
    head: nn.Linear | None = None  # see `head.plain_head`; without it the logits of all targets are held
    smoothing: float = 0.0  # see `task.label_smoothing`
    unit = "tokens"

    def size(self, example: Seq2SeqExample) -> int:
        """Tokens of source and target."""
        return len(example)

    def targets(self, example: Seq2SeqExample) -> int:
        """Tokens to be predicted: all of the target's."""
        return len(example.target)

    def batches(self, examples: Sequence[Seq2SeqExample], share: Share = ALONE) -> Iterator[Seq2SeqBatch]:
        """Every `processes`-th batch, put together when it is asked for; one without an example has no target.

        Padding is exact: what a row's own tokens see is masked. Packed rows would not be, as the cross-attention of one
        pair would reach the sources of others.
        """
        # Twice the longer side is no less than what a padded pair takes.
        lengths = [2 * max(len(example.source), len(example.target)) for example in examples]
        rows = padded_rows(lengths, self.max_tokens, share.processes)
        for row in rows[share.process :: share.processes]:
            chosen = [examples[index] for index in row]
            yield self._batch(chosen or examples[:1], wanted=bool(chosen))

    def score(self, model: nn.Module, batch: Seq2SeqBatch) -> Score:
        """Loss and right guesses, summed over the batch's targets."""
        if self.head is not None:
            loss_of = replaced_by_loss(
                self.head, batch.labels, self.device, self.smoothing, training=model.training
            )
            with loss_of, _no_bias(self.model):
                loss, correct = self.logits(model, batch)[0]
            return Score(loss, correct.detach(), len(batch.labels))
        return score_of(
            self.logits(model, batch), batch.labels, training=model.training, smoothing=self.smoothing
        )

    def constant_loss(self, examples: Sequence[Seq2SeqExample]) -> None:
        """None: there are no labels."""

    def logits(self, model: nn.Module, batch: Seq2SeqBatch) -> Tensor:
        """[targets, vocab]: what the model says in front of each target."""

        def wanted(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (inputs[0][batch.rows, batch.columns][None], *inputs[1:])

        head = self.model.get_output_embeddings()
        assert head is not None
        hook = head.register_forward_pre_hook(wanted)
        try:
            logits: Tensor = model(**batch.inputs, use_cache=False).logits
        finally:
            hook.remove()
        return logits[0]

    def _batch(self, examples: Sequence[Seq2SeqExample], *, wanted: bool) -> Seq2SeqBatch:
        def padded(rows: Sequence[Sequence[int]], filler: int) -> Tensor:
            longest = max(map(len, rows))
            return torch.tensor(
                [[*row, *[filler] * (longest - len(row))] for row in rows], device=self.device
            )

        places = [
            (row, column, token)
            for row, example in enumerate(examples)
            for column, token in enumerate(example.target)
            if wanted
        ]
        rows, columns, labels = (
            torch.tensor([place[part] for place in places], dtype=torch.long, device=self.device)
            for part in range(3)
        )
        inputs = {
            "input_ids": padded([example.source for example in examples], self.pad_id),
            "attention_mask": padded([[1] * len(example.source) for example in examples], 0),
            "decoder_input_ids": padded(
                [self.writing.shifted(example.target) for example in examples], self.pad_id
            ),
        }
        return Seq2SeqBatch(inputs, rows, columns, labels)


@contextlib.contextmanager
def _no_bias(model: PreTrainedModel) -> Iterator[None]:
    """Inside, a bias of the logits that is 0 (BART's and Marian's) does not widen what the head returns."""
    bias = getattr(model, "final_logits_bias", None)
    if bias is None:
        yield
        return
    model.final_logits_bias = bias.new_zeros(1, 1)
    try:
        yield
    finally:
        model.final_logits_bias = bias
