"""The task fields of a preference recipe, and the table of its losses. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from pydantic import Field, model_validator

from ptune.config.chat import Chat
from ptune.config.columns import PreferenceColumns

LossName = Literal["dpo", "ipo", "robust", "hinge", "apo_zero", "orpo", "simpo", "cpo"]


@dataclass(frozen=True)
class LossFacts:
    """What belongs to a loss of preferences."""

    paper: str
    reference: bool
    """Whether it compares with the model before training."""
    beta: float
    """Default of `task.beta`."""
    sft_weight: float = 0.0
    """Default of `task.sft_weight`."""


LOSSES: Mapping[str, LossFacts] = MappingProxyType(
    {
        "dpo": LossFacts("Rafailov et al. 2023, https://arxiv.org/abs/2305.18290", True, 0.1),
        "ipo": LossFacts("Azar et al. 2023, https://arxiv.org/abs/2310.12036", True, 0.1),
        "robust": LossFacts("Chowdhury et al. 2024, https://arxiv.org/abs/2403.00409", True, 0.1),
        "hinge": LossFacts("Zhao et al. 2023, https://arxiv.org/abs/2305.10425", True, 0.1),
        "apo_zero": LossFacts("D'Oosterlinck et al. 2024, https://arxiv.org/abs/2408.06266", True, 0.1),
        "orpo": LossFacts("Hong et al. 2024, https://arxiv.org/abs/2403.07691", False, 0.1, sft_weight=1.0),
        "simpo": LossFacts("Meng et al. 2024, https://arxiv.org/abs/2405.14734", False, 2.0),
        "cpo": LossFacts("Xu et al. 2024, https://arxiv.org/abs/2401.08417", False, 0.1, sft_weight=1.0),
    }
)
"""The losses by name. Their formulas: `ptune.tasks.preference.losses`."""


class Preference(Chat):
    """Training on pairs of answers to the same prompt, of which one is preferred: DPO and its relatives.

    The adapter is one for chat. Only the answers are compared: no token of the prompt is a target.
    """

    columns: PreferenceColumns = PreferenceColumns()  # type: ignore[assignment]  # not conversations, as its parent's
    loss: LossName = "dpo"
    """The loss of a pair, see docs/preferences.md."""
    beta: float | None = Field(default=None, gt=0)
    """How much a difference in log-probability counts; default: the loss's own, mostly 0.1."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Share of pairs that are taken to be the wrong way round: conservative DPO; needed by robust, for dpo, robust, simpo and cpo."""
    margin: float = Field(default=1.0, ge=0)
    """simpo: by how much the better answer is to win (gamma in its paper)."""
    sft_weight: float | None = Field(default=None, ge=0)
    """Weight of the better answer's own cross-entropy per token, added to the loss; default: 1 for orpo and cpo, else 0."""
    on_overlong: Literal["error", "drop"] = "error"
    """What to do with a pair of which an answer, with its prompt, is longer than `max_length`."""

    @property
    def facts(self) -> LossFacts:
        """What belongs to the loss."""
        return LOSSES[self.loss]

    @property
    def strength(self) -> float:
        """`beta`, or the loss's own."""
        return self.facts.beta if self.beta is None else self.beta

    @property
    def sft(self) -> float:
        """`sft_weight`, or the loss's own."""
        return self.facts.sft_weight if self.sft_weight is None else self.sft_weight

    @property
    def compares_means(self) -> bool:
        """Whether the loss compares log-probabilities per token, not of whole answers."""
        return self.loss in ("ipo", "orpo", "simpo")

    @model_validator(mode="after")
    def _smoothing_is_used(self) -> Preference:
        smoothed = ("dpo", "robust", "simpo", "cpo")
        if self.label_smoothing and self.loss not in smoothed:
            raise ValueError(f"label_smoothing is for {', '.join(smoothed)}: {self.loss} has none")
        if self.loss == "robust" and not self.label_smoothing:
            raise ValueError("robust needs label_smoothing, the share of pairs that are the wrong way round")
        return self
