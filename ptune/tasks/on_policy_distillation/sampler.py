"""Lets the student answer the prompts of a step itself, in the share of steps that the recipe says."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from accelerate import Accelerator
from torch import nn

from ptune.codecs.chat import Example
from ptune.config.on_policy_distillation import OnPolicyDistillation
from ptune.tasks.on_policy_distillation.objective import Sampled
from ptune.tasks.own_answers.answer import Answer
from ptune.tasks.own_answers.certificate import Certificate
from ptune.tasks.own_answers.policy import Policy
from ptune.tasks.own_answers.shares import of_all, own_share


@dataclass(frozen=True)
class Question:
    """The tokens before an example's last answer. See `ptune.tasks.own_answers.policy.Asked`."""

    ids: tuple[int, ...]
    number: int  # in its step


@dataclass
class StudentSampler:
    """See `ptune.training.sampler.Sampler`. Each process samples a part of a step's answers."""

    task: OnPolicyDistillation
    policy: Policy
    accelerator: Accelerator
    seed: int
    certificate: Certificate
    _values: dict[str, float] = field(
        default_factory=dict
    )  # of this step's answers; none where they are the data's

    def sample(self, model: nn.Module, examples: Sequence[Example], step: int) -> Sequence[Example]:
        """The prompts of `examples` with the student's answers; or `examples`, by a draw that depends on seed and step alone."""
        started_s = time.perf_counter()
        self._values = {}
        if not on_policy(self.seed, step, self.task.lmbda):
            return examples
        self.certificate.clear()
        self.policy.follow(self.accelerator.unwrap_model(model))
        questions = [Question(before_last_answer(one), number) for number, one in enumerate(examples)]
        own = own_share(self.accelerator, questions)
        answered = self.policy.sampled(own, 1, f"{self.seed}/{step}")
        made = [(question, answer) for question, (answer,) in zip(own, answered, strict=True)]
        made = of_all(self.accelerator, made)
        self._values = {
            "answer_tokens": float(np.mean([len(answer.ids) for _, answer in made])),
            "cut": float(np.mean([not answer.finished for _, answer in made])),
            "seconds_sampling": time.perf_counter() - started_s,
        }
        return [sampled(question, answer) for question, answer in made]

    def report(self) -> dict[str, float]:
        """Whether the step was on-policy; if so, lengths and the step's certificate.

        Raises: PtuneError if its drift is beyond `drift_limit`.
        """
        if not self._values:
            return {"on_policy": 0.0}
        found = self.certificate.certified(self.accelerator, self.task.drift_limit)
        return {"on_policy": 1.0, **self._values, **found}


def on_policy(seed: int, step: int, share: float) -> bool:
    """Whether the student answers itself in a step: in this share of them."""
    return random.Random(f"{seed}/{step}/on policy").random() < share  # noqa: S311


def before_last_answer(example: Example) -> tuple[int, ...]:
    """The tokens before the last run of targets."""
    end = len(example) - example.targets[::-1].index(True)
    start = end
    while start > 0 and example.targets[start - 1]:
        start -= 1
    return example.ids[: max(1, start)]  # the first token has nothing before it: it is given


def sampled(question: Question, answer: Answer) -> Sampled:
    """A question and its answer as an example."""
    flags = (False,) * len(question.ids) + (True,) * len(answer.ids)
    return Sampled(question.ids + answer.ids, flags, answer.log_probabilities)
