"""The task fields of a reinforcement recipe, and the table of its losses. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from pydantic import Field, model_validator

from ptune.config.columns import PromptColumns
from ptune.config.own_answers import OwnAnswers
from ptune.config.preference import Preference

LossName = Literal["grpo", "dapo", "dr_grpo", "rloo", "gspo", "online_dpo", "online_ipo"]
Baseline = Literal["standardised", "mean", "others"]
Ratio = Literal["token", "mean", "sum"]
Per = Literal["answer", "token", "longest"]


@dataclass(frozen=True)
class LossFacts:
    """What belongs to a loss of sampled answers."""

    paper: str
    baseline: Baseline
    """What a reward is compared with: the mean of its group, and divided by the group's standard deviation or not; or the mean of
    the group's other answers."""
    ratio: Ratio
    """What is compared with the model that answered: the probability of each token; or that of a whole answer, by the mean or by
    the sum of its tokens' log-probabilities."""
    per: Per
    """What a sum over an answer's tokens is divided by: their number, that of all answers of the step, or `answer_tokens`."""
    clip: tuple[float, float]
    """By how much a ratio may be below 1 and above it, unless the recipe says it."""


LOSSES: Mapping[str, LossFacts] = MappingProxyType(
    {
        "grpo": LossFacts(
            "Shao et al. 2024, https://arxiv.org/abs/2402.03300",
            "standardised",
            "token",
            "answer",
            (0.2, 0.2),
        ),
        "dapo": LossFacts(
            "Yu et al. 2025, https://arxiv.org/abs/2503.14476", "standardised", "token", "token", (0.2, 0.28)
        ),
        "dr_grpo": LossFacts(
            "Liu et al. 2025, https://arxiv.org/abs/2503.20783", "mean", "token", "longest", (0.2, 0.2)
        ),
        "rloo": LossFacts(
            "Ahmadian et al. 2024, https://arxiv.org/abs/2402.14740", "others", "sum", "answer", (0.2, 0.2)
        ),
        "gspo": LossFacts(
            "Zheng et al. 2025, https://arxiv.org/abs/2507.18071",
            "standardised",
            "mean",
            "answer",
            (3e-4, 4e-4),
        ),
    }
)
"""The losses of each answer, by name. Their formulas: `ptune.tasks.reinforcement.losses`."""

PAIR_LOSSES: Mapping[str, Literal["dpo", "ipo"]] = MappingProxyType(
    {"online_dpo": "dpo", "online_ipo": "ipo"}
)
"""The losses of a group's best answer against its worst, and what the task Preference calls them: online DPO (Guo et al. 2024,
https://arxiv.org/abs/2402.04792). Their formulas: `ptune.tasks.preference.losses`."""


class Reinforcement(OwnAnswers):
    """Training on a model's own answers, which functions reward: GRPO and its relatives, and online DPO.

    The adapter is one for chat. The engine that serves it also samples the answers that it learns from, with the weights of the
    same step, and each step compares the log-probabilities of both.
    """

    columns: PromptColumns = PromptColumns()  # type: ignore[assignment]  # of prompts, not conversations, as its parent's
    rewards: tuple[str, ...] = ()
    """What an answer is rewarded for, each with a weight if it is not 1: exact, 0.2*length:40, my_rewards.py:function; see docs/rewards.md."""
    loss: LossName = "grpo"
    """The loss of sampled answers, see docs/reinforcement.md."""
    group_size: int = Field(default=8, ge=2)
    """Answers to each prompt of a step. A step has `train.batch_size` prompts."""
    cut_answers: Literal["count", "leave_out"] = "count"
    """Answers that reach `answer_tokens` without an end: counted like others, or left out of the loss (the overlong filtering of DAPO)."""
    updates: int = Field(default=1, ge=1)
    """Optimiser steps on each batch of answers. From the second on the loss has the clipped ratio of the model to the one that
    answered (mu in GRPO's paper)."""
    clip: float | None = Field(default=None, gt=0, le=1)
    """With `updates`: how far below 1 a ratio may fall and still be learnt from; default: that of the loss's paper, 0.2, of gspo 3e-4."""
    clip_high: float | None = Field(default=None, gt=0)
    """With `updates`: how far above 1; default: as `clip` where that is set, else that of the paper, 0.2, of dapo 0.28, of gspo 4e-4."""
    kl: float = Field(default=0.0, ge=0)
    """Weight of the KL divergence from the model before training, per token (beta in GRPO's paper)."""
    beta: float | None = Field(default=None, gt=0)
    """online_dpo, online_ipo: how much a difference in log-probability counts; default: 0.1."""
    on_overlong: Literal["error", "drop"] = "error"
    """What to do with a prompt that leaves less than `answer_tokens` of `max_length`."""

    @property
    def facts(self) -> LossFacts:
        """What belongs to a loss of each answer."""
        return LOSSES[self.loss]

    @property
    def pairs(self) -> Preference | None:
        """How the best and the worst answer of a group are compared; None where each answer has a loss of its own."""
        name = PAIR_LOSSES.get(self.loss)
        return None if name is None else Preference(loss=name, beta=self.beta)

    @property
    def clip_range(self) -> tuple[float, float]:
        """Between which values a ratio is not clipped."""
        low, high = self.facts.clip
        if self.clip is not None:
            low = high = self.clip
        return 1 - low, 1 + (high if self.clip_high is None else self.clip_high)

    @property
    def steps_per_batch(self) -> int:
        return self.updates

    @property
    def prompt_tokens(self) -> int:
        """Longest prompt, in tokens."""
        return self.max_length - self.answer_tokens

    @model_validator(mode="after")
    def _room_for_a_prompt(self) -> Reinforcement:
        if self.prompt_tokens < 1:
            raise ValueError(
                f"answer_tokens {self.answer_tokens} leaves no room for a prompt in max_length {self.max_length}"
            )
        return self

    @model_validator(mode="after")
    def _no_smoothing(self) -> Reinforcement:
        if self.label_smoothing:
            raise ValueError("label_smoothing is not for reinforcement, whose losses have none: leave it out")
        return self

    @model_validator(mode="after")
    def _the_reference_is_told_once(self) -> Reinforcement:
        if self.loss in PAIR_LOSSES and self.kl:
            raise ValueError(
                f"kl is not for {self.loss}, which compares with the model before training itself: leave it out, and set beta"
            )
        if self.loss not in PAIR_LOSSES and self.beta is not None:
            raise ValueError(
                f"beta is for {', '.join(PAIR_LOSSES)}: the divergence of {self.loss} from the model before training is kl"
            )
        return self

    @model_validator(mode="after")
    def _a_ratio_is_clipped(self) -> Reinforcement:
        if self.loss in PAIR_LOSSES and self.updates > 1:
            raise ValueError(
                f"updates {self.updates} is not for {self.loss}, whose loss has no ratio to the model that answered: leave it out"
            )
        for name in ("clip", "clip_high"):
            if getattr(self, name) is not None and self.updates == 1:
                raise ValueError(
                    f"{name} is for updates of 2 or more: in a batch's only update the model is the one that answered, and there is"
                    " no ratio to clip: leave it out"
                )
        return self
