"""The settings of a search, and the paths of its files.

runs/NAME-tune/
    study.db            the study, unless another storage is named
    trial-N.yaml        the recipe of a trial
    trial-N.log         the output of its training
    trial-N/            its run folder
    best.yaml           the best recipe: `ptune train best.yaml`
    tune.json           all trials, importances
    report.html         the same, for reading
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from ptune.config.recipe import Recipe
from ptune.tuning.space import Space

Metric: TypeAlias = Literal["validation_loss", "validation_accuracy"]


@dataclass(frozen=True)
class Search:
    """One search. `storage` is a database's URL; None = study.db in the folder."""

    recipe: Recipe
    space: Space
    folder: Path
    trials: int
    metric: Metric = "validation_loss"
    seed: int = 0
    storage: str | None = None

    @property
    def name(self) -> str:
        """The study's name in its storage."""
        return f"{self.recipe.name}-tune"

    @property
    def maximised(self) -> bool:
        return self.metric == "validation_accuracy"

    @property
    def url(self) -> str:
        return self.storage or f"sqlite:///{self.folder.resolve() / 'study.db'}"

    def trial_recipe(self, number: int) -> Path:
        return self.folder / f"trial-{number}.yaml"

    def trial_log(self, number: int) -> Path:
        return self.folder / f"trial-{number}.log"

    def trial_run(self, number: int) -> Path:
        return self.folder / f"trial-{number}"
