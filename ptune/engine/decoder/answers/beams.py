"""Beam search: chooses the continuations to follow, and the best answer. Pure: logits in, choices out.

The rules are those of transformers' `generate(num_beams=…)`, so that both find the same answers with the same scores:

- Of all continuations of all beams the best (1 + stop tokens) x num_beams are looked at, twice num_beams at least: so many
  can end and there is still one for every beam. The best num_beams that go on are followed.
- Those that end are answers if they are among the best num_beams; the best num_beams answers are kept. An answer's score is
  the sum of its log-probabilities divided by its tokens, the stop token included, to the power of `length_penalty`.
- The search is over at `max_tokens`, and earlier where there are num_beams answers and: with `early_stopping` true, at once;
  with false, when the best beam's score as of now is no better than the worst answer's; with "never", when it could not
  become better even at `max_tokens` (by a positive penalty; else as false).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from ptune.engine.decoder.request import Beams
from ptune.engine.sampling import Floats, most_likely


class Sequel(NamedTuple):
    """An answer or the beginning of one: the sum of its log-probabilities or, where it is over, its score; and its tokens."""

    score: float
    tokens: tuple[int, ...]


class BeamSearch:
    """The search for one prompt's answer."""

    def __init__(self, beams: Beams, max_tokens: int, stop_ids: Collection[int]) -> None:
        self.live = [Sequel(0.0, ())]  # best first; what their logits are wanted for
        self.answers: list[Sequel] = []  # best first
        self.done = False
        self._beams, self._max_tokens, self._stop_ids = beams, max_tokens, stop_ids

    @property
    def looked_at(self) -> int:
        """Continuations that are looked at in a step; of each beam no more are needed."""
        return max(2, 1 + len(self._stop_ids)) * self._beams.num_beams

    def step(self, logprobs: Sequence[Floats]) -> list[int]:
        """Goes on by one token, from each live beam's log-probabilities [vocab] of it.

        Returns for each of the beams that are live then, which of those before it continues.
        """
        most, length = self._beams.num_beams, len(self.live[0].tokens) + 1
        ended, going_on = [], []
        for rank, (score, beam, token) in enumerate(self._best(logprobs)):
            tokens = (*self.live[beam].tokens, token)
            if length < self._max_tokens and token not in self._stop_ids:
                going_on.append((beam, Sequel(score, tokens)))
            elif rank < most:
                ended.append(Sequel(self._penalised(score, length), tokens))
        self.answers = sorted([*self.answers, *ended], key=lambda answer: -answer.score)[:most]
        self.live = [sequel for _, sequel in going_on[:most]]
        self.done = not self.live or (len(self.answers) == most and self._enough(length))
        return [beam for beam, _ in going_on[:most]]

    def best(self) -> Sequel:
        """The best answer; of a search that is given up before its end, live beams count as answers as they are."""
        live = (
            [] if self.done else [Sequel(self._penalised(*_sized(beam)), beam.tokens) for beam in self.live]
        )
        return max([*self.answers, *live], key=lambda answer: answer.score)

    def _best(self, logprobs: Sequence[Floats]) -> list[tuple[float, int, int]]:
        """(score, beam, token) of the best continuations, best first; ties by beam, then token."""
        found = [
            (before.score + logprob, beam, token)
            for beam, (before, tokens) in enumerate(zip(self.live, logprobs, strict=True))
            for token, logprob in most_likely(tokens, min(self.looked_at, len(tokens)))
        ]
        return sorted(found, key=lambda one: (-one[0], one[1], one[2]))[: self.looked_at]

    def _enough(self, length: int) -> bool:
        """Whether no further answer could be better than those found."""
        if self._beams.early_stopping is True:
            return True
        longest = self._beams.early_stopping == "never" and self._beams.length_penalty > 0
        possible = self._penalised(self.live[0].score, self._max_tokens if longest else length)
        return possible <= self.answers[-1].score

    def _penalised(self, score: float, tokens: int) -> float:
        return float(score / tokens**self._beams.length_penalty)


def _sized(beam: Sequel) -> tuple[float, int]:
    return beam.score, max(len(beam.tokens), 1)
