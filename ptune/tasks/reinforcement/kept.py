"""A batch of answers from its first update on: what the later ones need of it, as tensors that a checkpoint between two of them holds.

ids        [tokens] of all answers, one after the other
log_p      [tokens] their log-probabilities in training, as the first update found them
lengths    [answers]
finished   [answers]
rewards    [answers]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from ptune.config.reinforcement import Reinforcement
from ptune.errors import FormatError
from ptune.tasks.own_answers.answer import Answer
from ptune.tasks.reinforcement.rollout import Rollout, rollout_of

_NAMES = ("ids", "log_p", "lengths", "finished", "rewards")


def kept(rollouts: Sequence[Rollout], log_p: Mapping[int, Tensor]) -> dict[str, Tensor]:
    """The rollouts of a step as tensors. log_p: by an answer's number in the step, [its tokens]."""
    answers = [answer for rollout in rollouts for answer in rollout.answers]
    return {
        "ids": torch.tensor([one for answer in answers for one in answer.ids]),
        "log_p": torch.cat([log_p[number] for number in range(len(answers))]),
        "lengths": torch.tensor([len(answer.ids) for answer in answers]),
        "finished": torch.tensor([answer.finished for answer in answers]),
        "rewards": torch.tensor(
            [one for rollout in rollouts for one in rollout.rewards], dtype=torch.float64
        ),
    }


def rollouts_again(
    task: Reinforcement, prompts: Sequence[tuple[int, ...]], of: Mapping[str, Tensor]
) -> list[Rollout]:
    """The rollouts that `kept` was given, of these prompts, for another update."""
    ids, log_p, lengths, finished, rewards = (of[name].tolist() for name in _NAMES)
    ends = accumulate(lengths, initial=0)
    answers = [
        Answer(tuple(ids[first:end]), tuple(log_p[first:end]), done)
        for (first, end), done in zip(pairwise(ends), finished, strict=True)
    ]
    size = task.group_size
    return [
        rollout_of(
            task,
            prompt,
            answers[first : first + size],
            rewards[first : first + size],
            first=first,
            again=True,
        )
        for first, prompt in zip(range(0, len(answers), size), prompts, strict=True)
    ]


def check_kept(of: Mapping[str, Tensor]) -> None:
    """Raises: FormatError if these are not the tensors of `kept`."""
    if not of.keys() >= set(_NAMES):
        raise FormatError("it holds no answers that its next step could learn from")
