"""Samples the answers of a step, rewards them, certifies that they are the trained model's own, and keeps them for later steps."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ptune.config.reinforcement import Reinforcement
from ptune.data.shapes.prompts import Prompt
from ptune.progress import say
from ptune.rewards import Reward
from ptune.tasks.own_answers.answer import Answer
from ptune.tasks.own_answers.policy import Policy, repeats_of
from ptune.tasks.own_answers.shares import known_to_all, of_all, own_share
from ptune.tasks.reinforcement.kept import check_kept, kept, rollouts_again
from ptune.tasks.reinforcement.rollout import Rollout, rollout_of
from ptune.tasks.reinforcement.seen import Seen

_SILENT_STEPS = 3


@dataclass
class Sampler:
    """See `ptune.training.sampler.ReusingSampler`. Each process samples a part of a step's prompts."""

    task: Reinforcement
    policy: Policy
    rewards: tuple[Reward, ...]
    accelerator: Accelerator
    seed: int
    seen: Seen  # what the objective sees of the answers
    _values: dict[str, float] = field(default_factory=dict)  # of answers that this step sampled
    _rollouts: Sequence[Rollout] = ()  # this step's
    _kept: Mapping[str, Tensor] = field(default_factory=dict)  # the newest answers, see `kept`
    _silent: int = 0  # steps in which no answer was better than another to the same prompt

    def sample(self, model: nn.Module, examples: Sequence[Prompt], step: int) -> Sequence[Rollout]:
        """Groups of answers to the prompts `examples`, in their order; they serve `updates` steps."""
        self.seen.clear()
        if step % self.task.updates:
            self._values = {}
            self._rollouts = rollouts_again(self.task, [prompt.ids for prompt in examples], self._kept)
        else:
            self._rollouts = self._sampled(model, examples, step)
        return self._rollouts

    def report(self) -> dict[str, float]:
        """Rewards, lengths, the step's certificate, and what the objective saw; of answers of an earlier step the latter alone.

        Raises: PtuneError if the drift is beyond `drift_limit`.
        """
        if not self._values:
            return self.seen.means(self.accelerator)
        certified = self.seen.certified(self.accelerator, self.task.drift_limit)
        if self.task.updates > 1:
            self._kept = kept(self._rollouts, known_to_all(self.accelerator, self.seen.by_answer))
        return {**self._values, **certified, **self.seen.means(self.accelerator)}

    def held(self, step: int) -> Mapping[str, Tensor]:
        return self._kept if step % self.task.updates else {}

    def take_up(self, step: int, held: Mapping[str, Tensor]) -> None:
        if step % self.task.updates:
            check_kept(held)
        self._kept = held

    def reward(self, model: nn.Module, examples: Sequence[Prompt]) -> float:
        """The mean reward of the greedy answers."""
        self.policy.follow(self.accelerator.unwrap_model(model))
        own = own_share(self.accelerator, examples)
        groups = [[answer] for answer in self.policy.likeliest(own)]
        total = sum(float(total[0]) for total, _ in rewarded(self.rewards, own, groups, self.policy))
        sums = torch.tensor([total, float(len(own))], dtype=torch.float64, device=self.accelerator.device)
        total, count = self.accelerator.reduce(sums).tolist()
        return total / count

    def _sampled(self, model: nn.Module, examples: Sequence[Prompt], step: int) -> list[Rollout]:
        started_s = time.perf_counter()
        self.policy.follow(self.accelerator.unwrap_model(model))
        own = own_share(self.accelerator, examples)
        places = own_share(self.accelerator, range(len(examples)))
        repeats = own_share(self.accelerator, repeats_of(examples))
        groups = self.policy.sampled(own, self.task.group_size, f"{self.seed}/{step}", repeats=repeats)
        worth = rewarded(self.rewards, own, groups, self.policy)
        made = [
            (rollout_of(self.task, prompt.ids, answers, total, first=place * self.task.group_size), of)
            for prompt, place, answers, (total, of) in zip(own, places, groups, worth, strict=True)
        ]
        made = of_all(self.accelerator, made)
        self._values = {
            **_figures([of for _, of in made], [rollout for rollout, _ in made]),
            "seconds_sampling": time.perf_counter() - started_s,
        }
        self._tell_if_silent()
        return [rollout for rollout, _ in made]

    def _tell_if_silent(self) -> None:
        self._silent = self._silent + 1 if self._values["groups_alike"] == 1 else 0
        if self._silent == _SILENT_STEPS and self.accelerator.is_main_process:
            say(
                f"in {_SILENT_STEPS} steps all answers to a prompt had the same reward, {self._values['reward']:.3g} on average:"
                " there is nothing to learn from. Choose rewards that tell answers apart, easier or harder prompts, or a larger"
                " task.group_size",
                style="red",
            )


Worth = tuple[list[float], dict[str, list[float]]]
"""The rewards of a group's answers, and by function."""


def rewarded(
    rewards: Sequence[Reward],
    prompts: Sequence[Prompt],
    groups: Sequence[Sequence[Answer]],
    policy: Policy,
) -> list[Worth]:
    """What the answers to each prompt are worth. Raises: RewardError."""
    texts = [policy.codec.decode_answer(answer.ids) for answers in groups for answer in answers]
    asked = [prompt for prompt, answers in zip(prompts, groups, strict=True) for _ in answers]
    found = {reward.name: _called(reward, asked, texts) for reward in rewards}
    totals = [
        sum(reward.weight * (found[reward.name][at] or 0.0) for reward in rewards) for at in range(len(asked))
    ]
    worth, first = [], 0
    for answers in groups:
        part = slice(first, first + len(answers))
        by_name = {
            name: [value for value in values[part] if value is not None] for name, values in found.items()
        }
        worth.append((totals[part], by_name))
        first += len(answers)
    return worth


def _called(reward: Reward, asked: Sequence[Prompt], texts: Sequence[str]) -> list[float | None]:
    """A reward of all answers. It is called once for plain prompts and once for those of messages."""
    values: list[float | None] = [None] * len(asked)
    for plain in (True, False):
        places = [at for at, prompt in enumerate(asked) if isinstance(prompt.asked.prompt, str) == plain]
        if places:
            prompts = [_as_given(asked[at]) for at in places]
            completions: list[Any] = [
                texts[at] if plain else [{"role": "assistant", "content": texts[at]}] for at in places
            ]
            columns = _columns([asked[at].asked.columns for at in places])
            for at, value in zip(places, reward(prompts, completions, columns), strict=True):
                values[at] = value
    return values


def _as_given(prompt: Prompt) -> Any:
    given = prompt.asked.prompt
    return given if isinstance(given, str) else list(given)


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _figures(of: Sequence[dict[str, list[float]]], rollouts: Sequence[Rollout]) -> dict[str, float]:
    """What the journal says of a step's answers."""
    answers = [answer for rollout in rollouts for answer in rollout.answers]
    rewards = np.array([reward for rollout in rollouts for reward in rollout.rewards])
    by_name = {name: [value for one in of for value in one[name]] for name in of[0]}
    return {
        "reward": float(rewards.mean()),
        "reward_std": float(rewards.std()),
        **{f"reward/{name}": float(np.mean(values)) for name, values in by_name.items() if values},
        "answer_tokens": float(np.mean([len(answer.ids) for answer in answers])),
        "cut": float(np.mean([not answer.finished for answer in answers])),
        "groups_alike": float(np.mean([rollout.alike for rollout in rollouts])),
    }
