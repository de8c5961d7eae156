"""Optuna's TPE sampler, seeded for every trial by its number.

A single generator for the study would restart at each resume and in each process, and propose the same points twice.
Here the proposal for a trial depends only on the seed, its number and the trials that ended before it.
"""

from __future__ import annotations

import hashlib
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial

STARTUP_TRIALS = 8  # random trials before TPE has enough data


class SeededTpe(BaseSampler):
    """TPE (Bergstra et al. 2011, https://papers.nips.cc/paper/4443) whose proposals are repeatable."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._tpe(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._tpe(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        tpe = self._tpe(trial, param_name)
        return tpe.sample_independent(study, trial, param_name, param_distribution)

    def _tpe(self, trial: FrozenTrial, name: str = "") -> TPESampler:
        digest = hashlib.sha256(f"{self._seed}/{trial.number}/{name}".encode()).digest()
        return TPESampler(
            seed=int.from_bytes(digest[:4], "big"), n_startup_trials=STARTUP_TRIALS, constant_liar=True
        )
