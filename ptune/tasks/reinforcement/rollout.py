"""The answers that a model gave to a prompt, and what they are worth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ptune.codecs.chat import Example
from ptune.config.reinforcement import Baseline, Reinforcement
from ptune.tasks.own_answers.answer import Answer

_SPREAD = 1e-4  # added to a standard deviation, as in TRL


@dataclass(frozen=True)
class Rollout:
    """A group of answers to one prompt. See `ptune.training.rows.answer_rows.Answered`."""

    prompt: tuple[int, ...]
    answers: tuple[Answer, ...]
    rewards: tuple[float, ...]
    advantages: tuple[float, ...]  # where pairs are compared: 1 of the better answer, -1 of the worse
    counted: tuple[bool, ...]  # whether an answer has a loss
    numbers: tuple[int, ...]  # of the answers among all of the step
    again: bool = False  # not the first update from them: their log-probabilities are those that it found

    @cached_property
    def sides(self) -> list[Example]:
        """Prompt and answer; the answers' tokens are targets."""
        before = (False,) * len(self.prompt)
        return [
            Example(self.prompt + answer.ids, before + (True,) * len(answer.ids)) for answer in self.answers
        ]

    @property
    def tokens(self) -> int:
        """Tokens of the answers that have a loss."""
        return sum(
            len(answer.ids) for answer, counts in zip(self.answers, self.counted, strict=True) if counts
        )

    @property
    def alike(self) -> bool:
        """Whether no answer is better than another, so that there is nothing to learn."""
        return not any(self.advantages)

    @cached_property
    def pair(self) -> Rollout:
        """The better answer and the worse; where none is better the first two."""
        return self._of((0, 1) if self.alike else (self.advantages.index(1.0), self.advantages.index(-1.0)))

    def pieces(self, most_tokens: int) -> Iterator[Rollout]:
        """This group in parts of at most so many tokens, prompt included, or of one answer."""
        first, room = 0, most_tokens - len(self.prompt)
        for at, answer in enumerate(self.answers):
            if at > first and len(answer.ids) > room:
                yield self._of(range(first, at))
                first, room = at, most_tokens - len(self.prompt)
            room -= len(answer.ids)
        yield self._of(range(first, len(self.answers)))

    def _of(self, places: Sequence[int]) -> Rollout:
        """The group of these answers alone."""
        return replace(
            self,
            answers=tuple(self.answers[at] for at in places),
            rewards=tuple(self.rewards[at] for at in places),
            advantages=tuple(self.advantages[at] for at in places),
            counted=tuple(self.counted[at] for at in places),
            numbers=tuple(self.numbers[at] for at in places),
        )


def rollout_of(
    task: Reinforcement,
    prompt: tuple[int, ...],
    answers: Sequence[Answer],
    rewards: Sequence[float],
    *,
    first: int = 0,
    again: bool = False,
) -> Rollout:
    """A group with the advantages of its answers. first: number of its first answer in the step. again: see `Rollout`."""
    counted = tuple(answer.finished or task.cut_answers == "count" for answer in answers)
    worth = np.asarray(rewards, np.float64)
    if task.pairs is None:
        found = advantages(task.facts.baseline, worth)
    else:
        found = extremes(worth, np.array(counted))
    numbers = tuple(range(first, first + len(answers)))
    return Rollout(prompt, tuple(answers), tuple(rewards), tuple(found.tolist()), counted, numbers, again)


def advantages(baseline: Baseline, rewards: NDArray[np.float64]) -> NDArray[np.float64]:
    """By how much each of a group's rewards is above its baseline, [answers]."""
    if (rewards == rewards[0]).all():  # or the mean's rounding would pass for a difference
        return np.zeros_like(rewards)
    above = rewards - rewards.mean()
    if baseline == "others":
        return above * (len(rewards) / (len(rewards) - 1))
    if baseline == "mean":
        return above
    return np.asarray(above / (rewards.std(ddof=1) + _SPREAD))


def extremes(rewards: NDArray[np.float64], counted: NDArray[np.bool_]) -> NDArray[np.float64]:
    """1 for the best of a group's answers that count, -1 for the worst, 0 for all others, [answers]; all 0 where none is better.

    Of several that are worth the same the first one stands for them.
    """
    found = np.zeros_like(rewards)
    best = int(np.where(counted, rewards, -np.inf).argmax())
    worst = int(np.where(counted, rewards, np.inf).argmin())
    if counted.any() and rewards[best] > rewards[worst]:
        found[best], found[worst] = 1.0, -1.0
    return found
