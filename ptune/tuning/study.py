"""The study: Optuna's record of all trials, in a database that several processes can share."""

from __future__ import annotations

import json
import warnings
from typing import Any

import optuna
from optuna.pruners import MedianPruner
from optuna.storages import RDBStorage
from optuna.study import Study
from optuna.trial import Trial

from ptune.errors import PtuneError, RecipeError
from ptune.formats.whole_write import disk_errors
from ptune.tuning.sampler import SeededTpe
from ptune.tuning.settings import Search
from ptune.tuning.space import Choice, Value

_PRUNE_AFTER_TRIALS = 4
_WAIT_S = 60  # how long to wait for a file that another process is writing


def open_study(search: Search) -> Study:
    """Opens or creates the study. Raises: RecipeError if it belongs to another recipe or space; PtuneError."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    with disk_errors(search.folder):
        search.folder.mkdir(parents=True, exist_ok=True)
    timeout = {"connect_args": {"timeout": _WAIT_S}} if search.url.startswith("sqlite") else {}
    try:
        study = optuna.create_study(
            storage=RDBStorage(search.url, engine_kwargs=timeout),
            study_name=search.name,
            direction="maximize" if search.maximised else "minimize",
            load_if_exists=True,
            sampler=SeededTpe(search.seed),
            # The first validation, of number 1, is too early to give up; later ones are compared with those of other trials.
            pruner=MedianPruner(n_startup_trials=_PRUNE_AFTER_TRIALS, n_warmup_steps=2),
        )
    except Exception as error:  # from SQLAlchemy, a missing driver, or the database itself
        raise PtuneError(
            f"cannot open the study's storage: {type(error).__name__}: {_first_line(error)}"
        ) from None
    _check_same(study, search)
    return study


def ask(search: Search, trial: Trial) -> dict[str, Value]:
    """The values that a trial should try."""
    values: dict[str, Value] = {}
    for field, axis in search.space.items():
        if isinstance(axis, Choice):
            chosen: Any = trial.suggest_categorical(field, axis.values)
            values[field] = chosen
        elif axis.whole:
            values[field] = trial.suggest_int(field, int(axis.low), int(axis.high), log=axis.log)
        else:
            values[field] = trial.suggest_float(field, axis.low, axis.high, log=axis.log)
    return values


def _check_same(study: Study, search: Search) -> None:
    """Compares the search with the one that began the study. Raises: RecipeError that names the differences."""
    wanted = described(search)
    before = study.user_attrs.get("search")
    if before is None:
        study.set_user_attr("search", wanted)
        return
    different = [name for name in wanted if before.get(name) != wanted[name]]
    if different:
        where = "another --storage" if search.storage else "another --out"
        raise RecipeError(
            f"the study {search.name} was begun with another {' and '.join(different)}: "
            f"go on with the same, rename the recipe (--name), or choose {where}"
        )


def described(search: Search) -> dict[str, Any]:
    """The settings that must stay the same for trials to be comparable, as JSON values."""
    recipe = search.recipe.document()
    kept = {name: value for name, value in recipe.items() if name not in ("evaluate", "plan", "name")}
    return {
        "recipe": json.loads(json.dumps(kept)),
        "space": {field: str(axis) for field, axis in search.space.items()},
        "metric": search.metric,
        "seed": search.seed,
    }


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:300]
