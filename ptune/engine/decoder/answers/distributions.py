"""A sequence that keeps, of chosen tokens, what the model thought likely in their place: a teacher's labels for distillation."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ptune.engine.decoder.sequence import Chunk, TokenSequence
from ptune.engine.job import Finish
from ptune.engine.sampling import log_softmax, most_likely, require_numbers

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Distributions:
    """The distribution of each of a text's targets."""

    tokens: npt.NDArray[np.uint32]  # [targets, top] the most likely, best first
    logprobs: npt.NDArray[np.float32]  # [targets, top]
    tail: npt.NDArray[np.float32]  # [targets] log of the mass of all other tokens; -inf where there are none

    @classmethod
    def empty(cls, targets: int, top: int) -> Distributions:
        """Room for so many."""
        shape = (targets, top)
        return cls(np.zeros(shape, np.uint32), np.zeros(shape, np.float32), np.zeros(targets, np.float32))


@dataclass(frozen=True)
class Wanted:
    """What is kept of each target. vocab: tokens that count, from 0; those after them are no tokens of the tokenizer."""

    top: int
    vocab: int
    temperature: float = 1.0


class LabelledSequence(TokenSequence):
    """Computes a text once, and keeps the distributions of its targets."""

    def __init__(self, ids: Sequence[int], targets: Sequence[bool], wanted: Wanted) -> None:
        """targets: whether each token is one; the first cannot be."""
        super().__init__(list(ids), all_logits=True, most_tokens=len(ids))
        self._wanted = wanted
        places = [place - 1 for place, target in enumerate(targets) if target and place > 0]
        self._rows = {place: row for row, place in enumerate(places)}  # place in the text -> target
        self.found = Distributions.empty(len(places), wanted.top)
        self.error: str | None = None
        self.done = threading.Event()

    def take(self, chunk: Chunk, logits: Logits) -> None:
        start = chunk.start - self.virtual
        for place, row in enumerate(logits, start):
            if (target := self._rows.get(place)) is not None:
                self._keep(target, row)
        if chunk.newest:
            self.end("length")

    def end(self, finish: Finish, error: str | None = None) -> None:
        self.error = error if finish != "cancelled" else "the engine was closed"
        self.finished = True
        self.done.set()

    def _keep(self, target: int, logits: Logits) -> None:
        wanted, found = self._wanted, self.found
        require_numbers(logits[None])
        logprobs = log_softmax(logits[: wanted.vocab] / np.float32(wanted.temperature))
        best = most_likely(logprobs, wanted.top)
        tokens = [token for token, _ in best]
        found.tokens[target], found.logprobs[target] = tokens, [logprob for _, logprob in best]
        rest = np.exp(logprobs)
        rest[tokens] = 0  # not 1 less what they have, which is rounding alone where that is nearly all
        with np.errstate(divide="ignore"):
            found.tail[target] = np.log(rest.sum())
