"""The doctor for pairs of answers that train a reward model."""

from __future__ import annotations

from ptune.config.recipe import Recipe
from ptune.config.reward_model import RewardModel
from ptune.doctor.examined import Examined
from ptune.doctor.rewards import examine_rewards
from ptune.doctor.show_pairs import document, show


def examine(recipe: Recipe) -> Examined:
    """Reads the data once. Raises: DataError."""
    assert isinstance(recipe.task, RewardModel)
    report = examine_rewards(recipe.data, recipe.task, recipe.train.seed)
    return Examined(lambda: document(report), lambda console: show(report, console), report.has_errors)
