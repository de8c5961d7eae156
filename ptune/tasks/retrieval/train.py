"""Training side of embeddings: batches of any size in passes of bounded size, by gradient caching.

Each passage of a batch is a wrong answer to all other anchors, so the loss needs the whole batch at once, and so would its
activations. Gradient caching (GradCache: Gao et al. 2021, https://arxiv.org/abs/2101.06983) first computes all vectors
without a graph, then the loss and its gradient for the vectors, and then each pass again with a graph that receives this
gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from ptune.data.examples.pairs import PairExample
from ptune.tasks.retrieval.loss import Layout, contrastive, layout_of
from ptune.training.objective import Score
from ptune.training.rows.packing import ALONE, Share
from ptune.training.rows.padding import padded_rows


@dataclass(eq=False)
class Group:
    """Rows whose passages are each other's wrong answers, and the state that their first pass leaves for the others."""

    layout: Layout
    passes: list[list[int]]  # texts of each pass of every process
    own: range  # which of them are this process's
    targets: int
    gradient: Tensor | None = None  # [texts, width] of the loss, once it is known
    states: dict[int, list[Tensor]] = field(default_factory=dict)  # of chance, before each own pass


@dataclass(frozen=True)
class Pass:
    """Texts of a group that share a forward pass. The group's first pass carries its loss."""

    group: Group
    number: int
    inputs: dict[str, Tensor]  # input_ids, attention_mask, perhaps token_type_ids: [rows, seq]

    @property
    def texts(self) -> list[int]:
        """Indices of the texts in the layout; empty if the process has nothing to compute."""
        return self.group.passes[self.number]


@dataclass(frozen=True)
class EmbeddingObjective:
    """The contrastive loss of a batch, summed over its rows."""

    temperature: float
    sizes: tuple[int, ...]
    batch_size: int  # rows that are each other's wrong answers at most
    max_tokens: int  # most tokens of one forward pass, padding included
    device: torch.device
    pad_id: int
    type_ids: bool
    unit = "tokens"

    def size(self, example: PairExample) -> int:
        """Tokens."""
        return len(example)

    def targets(self, example: PairExample) -> int:
        """One per row."""
        return 1

    def batches(self, examples: Sequence[PairExample], share: Share = ALONE) -> Iterator[Pass]:
        """This process's passes of each group; rows are divided in order into groups of nearly equal size."""
        for part in np.array_split(np.arange(len(examples)), -(-len(examples) // self.batch_size)):
            rows = [examples[index] for index in part.tolist()]
            layout = layout_of(rows, self.device)
            passes = padded_rows(list(map(len, layout.texts)), self.max_tokens, share.processes)
            own = range(share.process, len(passes), share.processes)
            group = Group(layout, passes, own, len(rows))
            for number in own:
                yield self._pass(group, number)

    def score(self, model: nn.Module, batch: Pass) -> Score:
        """The group's loss for its first pass, 0 for the others; each carries its share of the gradient."""
        group = batch.group
        if len(group.passes) == 1:
            loss, right = self._loss(self.vectors(model, batch)[_places(batch)], group)
            return Score(loss, right, group.targets)
        loss = right = torch.zeros((), device=self.device)
        if group.gradient is None:
            loss, right = self._cache(model, group)
        first = batch.number == 0
        score = Score(loss if first else torch.zeros_like(loss), right * first, group.targets * first)
        if not torch.is_grad_enabled():
            return score
        with torch.random.fork_rng(_devices(self.device)):
            _set_state(group.states[batch.number], self.device)
            vectors = self.vectors(model, batch)
        assert group.gradient is not None
        weights = group.gradient[batch.texts] if batch.texts else torch.zeros_like(vectors)
        pulled = (vectors * weights).sum()
        return Score(score.loss + (pulled - pulled.detach()), score.correct, score.targets)

    def constant_loss(self, examples: Sequence[PairExample]) -> None:
        """None: there are no labels."""

    def vectors(self, model: nn.Module, batch: Pass) -> Tensor:
        """Vectors [texts of the pass, width]; for a pass without texts, one vector that does not count."""
        found: Tensor = model(**batch.inputs).logits
        return found

    def _cache(self, model: nn.Module, group: Group) -> tuple[Tensor, Tensor]:
        """Computes the loss of a group and its gradient for all vectors, in every process."""
        vectors: Tensor | None = None
        with torch.no_grad():
            for number in group.own:
                one = self._pass(group, number)
                group.states[number] = _state(self.device)
                found = self.vectors(model, one)
                if vectors is None:
                    vectors = found.new_zeros(len(group.layout.texts), found.shape[1])
                vectors[one.texts] = found[: len(one.texts)]
            assert vectors is not None
            if len(group.own) < len(group.passes):
                torch.distributed.all_reduce(vectors)  # each process has set its own rows
        with torch.enable_grad():
            leaf = vectors.requires_grad_()
            loss, right = self._loss(leaf, group)
            (group.gradient,) = torch.autograd.grad(loss, leaf)
        return loss.detach(), right

    def _loss(self, vectors: Tensor, group: Group) -> tuple[Tensor, Tensor]:
        return contrastive(vectors, group.layout, self.temperature, self.sizes)

    def _pass(self, group: Group, number: int) -> Pass:
        texts = [group.layout.texts[at] for at in group.passes[number] or [0]]
        return Pass(group, number, padded_texts(texts, self.pad_id, self.type_ids, self.device))


def padded_texts(
    texts: Sequence[Sequence[int]], pad_id: int, type_ids: bool, device: torch.device
) -> dict[str, Tensor]:
    """A model's inputs [rows, seq], padded on the right to the longest."""
    longest = max(map(len, texts))
    ids = [[*text, *[pad_id] * (longest - len(text))] for text in texts]
    mask = [[1] * len(text) + [0] * (longest - len(text)) for text in texts]
    inputs = {
        "input_ids": torch.tensor(ids, device=device),
        "attention_mask": torch.tensor(mask, device=device),
    }
    return inputs | ({"token_type_ids": torch.zeros_like(inputs["input_ids"])} if type_ids else {})


def _places(batch: Pass) -> list[int]:
    """Position in the pass of each of the group's texts."""
    return np.argsort(batch.texts).tolist()


def _devices(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []


def _state(device: torch.device) -> list[Tensor]:
    """State of the random generators (for dropout)."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(one) for one in _devices(device))]


def _set_state(state: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    for one, known in zip(_devices(device), state[1:], strict=True):
        torch.cuda.set_rng_state(known, one)
