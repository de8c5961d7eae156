"""A search over the fake trainer, in this process or in one of its own.

python searching.py FOLDER TRIALS [URL]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

from ptune.config.recipe import Data, Evaluate, Recipe, Train
from ptune.training.interrupt import StopSignal
from ptune.tuning import report
from ptune.tuning.outcome import Outcome, outcome
from ptune.tuning.search import search_on
from ptune.tuning.settings import Search
from ptune.tuning.space import parse
from ptune.tuning.study import open_study
from ptune.tuning.trial import beside

FAKE = Path(__file__).with_name("fake_trainer.py")
LR = "train.lr=log:1e-5..1e-1"


def launch(recipe: Path, folder: Path, resume: bool) -> list[str]:
    command = [sys.executable, "-S", "-c", _WITH_YAML, str(recipe), str(folder)]
    return [*command, "--resume"] if resume else command


# `-S` leaves out site-packages' start-up hooks; only yaml is needed of them.
_WITH_YAML = (
    f"import sys; sys.path.append({str(Path(yaml.__file__).parents[1])!r}); "
    f"sys.path.insert(0, {str(FAKE.parent)!r}); import fake_trainer; raise SystemExit(fake_trainer.main())"
)


def search_of(folder: Path, *space: str, trials: int = 6, pause_s: float = 0.0, **fields: Any) -> Search:
    recipe = Recipe(
        name="tiny",
        data=Data(files=(Path("train.jsonl"),), test=(Path("test.jsonl"),)),
        train=Train(warmup=pause_s),
        evaluate=Evaluate(limit=4),
    )
    return Search(recipe, parse(space or (LR,)), folder, trials, **fields)


def searched(search: Search, **options: Any) -> Outcome:
    study = open_study(search)
    search_on(study, search, stop=options.pop("stop", lambda: False), start=beside(launch), **options)
    found = outcome(study, search)
    report.write(found, search)
    return found


def main() -> int:
    folder, trials, *url = sys.argv[1:]
    search = search_of(Path(folder), trials=int(trials), storage=url[0] if url else None)
    study = open_study(search)
    with StopSignal() as stop:
        done = search_on(study, search, stop=lambda: stop.requested, start=beside(launch))
    return 0 if done else 130


if __name__ == "__main__":
    raise SystemExit(main())
