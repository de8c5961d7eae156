"""The outcome of a study: trials ranked by metric, the importance of each field, and the best recipe."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal, TypeAlias

import optuna
from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from ptune.formats.whole_write import write_json
from ptune.tuning.settings import Search
from ptune.tuning.space import Value, changed
from ptune.tuning.study import described

FORMAT = 1
_FEWEST_FOR_IMPORTANCES = 4

State: TypeAlias = Literal["finished", "pruned", "went wrong", "failed", "unfinished"]


@dataclass(frozen=True)
class Tried:
    """One trial. `value` is the metric of a finished trial; `last` is the newest validation of any trial."""

    number: int
    state: State
    params: dict[str, Value]
    value: float | None
    last: float | None
    steps: int
    seconds: float
    why: str


@dataclass(frozen=True)
class Outcome:
    """All trials, best first, and the importance of the fields."""

    tried: tuple[Tried, ...]
    importances: dict[str, float]  # field -> share of the variance that it explains, largest first
    evaluator: str  # the method that estimated the importances

    @property
    def best(self) -> Tried | None:
        return next((one for one in self.tried if one.value is not None), None)

    def document(self, search: Search) -> dict[str, Any]:
        """tune.json"""
        best = self.best
        return {
            "format": FORMAT,
            "study": search.name,
            **described(search),
            "direction": "maximize" if search.maximised else "minimize",
            "best": None
            if best is None
            else {"trial": best.number, "value": best.value, "params": best.params},
            "importances": {"by": self.evaluator, "shares": self.importances},
            "trials": [vars(one) for one in sorted(self.tried, key=lambda one: one.number)],
        }


def outcome(study: Study, search: Search, *, weighed: bool = True) -> Outcome:
    """Reads the study. weighed: with the importances of the fields, which take a moment."""
    tried = [_tried(trial) for trial in study.get_trials(deepcopy=False)]

    def merit(one: Tried) -> tuple[bool, float, int]:
        value = one.value if one.value is not None else 0.0
        return (one.value is None, -value if search.maximised else value, one.number)

    shares, evaluator = _importances(study) if weighed else ({}, "")
    return Outcome(tuple(sorted(tried, key=merit)), shares, evaluator)


def write(found: Outcome, search: Search) -> None:
    """Writes tune.json and, if a trial has finished, best.yaml."""
    write_json(search.folder / "tune.json", found.document(search))
    if found.best is not None:
        changed(search.recipe, found.best.params).save(search.folder / "best.yaml")


def _tried(trial: FrozenTrial) -> Tried:
    facts = trial.user_attrs
    why = str(facts.get("why", ""))
    states: dict[TrialState, State] = {TrialState.COMPLETE: "finished", TrialState.FAIL: "failed"}
    states[TrialState.PRUNED] = "went wrong" if why else "pruned"
    reported = trial.intermediate_values
    return Tried(
        number=trial.number,
        state=states.get(trial.state, "unfinished"),
        params=dict(trial.params),
        value=trial.value if trial.state == TrialState.COMPLETE else None,
        last=reported[max(reported)] if reported else None,
        steps=int(facts.get("steps", 0)),
        seconds=float(facts.get("seconds", 0.0)),
        why=why,
    )


def _importances(study: Study) -> tuple[dict[str, float], str]:
    """fANOVA (Hutter et al. 2014) where scikit-learn is installed, else PED-ANOVA (Watanabe et al. 2023)."""
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(finished) < _FEWEST_FOR_IMPORTANCES or len({trial.value for trial in finished}) < 2:
        return {}, ""
    fanova = find_spec("sklearn") is not None
    evaluator = FanovaImportanceEvaluator(seed=0) if fanova else PedAnovaImportanceEvaluator()
    with contextlib.suppress(ValueError, RuntimeError):  # of a study whose trials differ in nothing
        shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
        return {name: float(share) for name, share in shares.items()}, "fANOVA" if fanova else "PED-ANOVA"
    return {}, ""
