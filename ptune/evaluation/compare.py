"""Compares evaluated runs: figures with intervals, training cost, and paired tests on the same rows."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptune.config.recipe import Recipe
from ptune.config.reinforcement import Reinforcement
from ptune.errors import FormatError, UsageError
from ptune.evaluation.paired import Difference, differences
from ptune.formats.run import Run, RunRecord
from ptune.formats.whole_write import read_json, read_json_lines

CHAT_METRICS = ("loss", "perplexity", "token_accuracy")


@dataclass(frozen=True)
class Compared:
    """One line of the table."""

    name: str
    metrics: dict[str, float]
    intervals: dict[str, Sequence[float]]
    parameters: int | None  # trained
    seconds: float
    steps: int
    method: str
    lr: float
    differences: tuple[Difference, ...] = ()  # minus the first run


@dataclass(frozen=True)
class Comparison:
    """The lines of runs that were evaluated on the same data."""

    task: str
    split: str
    examples: int
    metrics: tuple[str, ...]  # columns
    runs: tuple[Compared, ...]


@dataclass(frozen=True)
class _Evaluated:
    run: Run
    name: str
    evaluation: dict[str, Any]
    record: RunRecord
    recipe: Recipe


def compare(folders: Sequence[Path], seed: int = 0) -> Comparison:
    """Compares each run with the first, by the files that `ptune evaluate` wrote.

    Raises: UsageError for fewer than two runs, one that is there twice, or different tasks or data, naming the differences; FormatError if
    a run has not been evaluated.
    """
    if len(folders) < 2:
        raise UsageError("compare needs two runs or more: ptune compare RUN RUN…")
    places = [folder.resolve() for folder in folders]
    for place in places:
        if places.count(place) > 1:
            raise UsageError(f"{place} is there twice: a run is compared with others")
    names = _names(folders)
    runs = [_opened(folder, name) for folder, name in zip(folders, names, strict=True)]
    for other in runs[1:]:
        _refuse_different(runs[0], other)
    first, classifies = runs[0], "metrics" in runs[0].evaluation
    if not classifies:
        chats = tuple(_line(run, run.evaluation["after"], _of_reward(run)) for run in runs)
        shown = ("reward",) if "rewards" in first.evaluation else CHAT_METRICS
        return Comparison("chat", first.evaluation["split"], first.evaluation["examples"], shown, chats)
    predicted = [_predictions(run) for run in runs]
    evaluation = first.evaluation
    lines = []
    for run, rows in zip(runs, predicted, strict=True):
        apart = (
            differences(evaluation["problem"], evaluation["labels"], rows, predicted[0], seed)
            if run is not first
            else []
        )
        lines.append(_line(run, run.evaluation["metrics"], run.evaluation["intervals"], tuple(apart)))
    return Comparison(
        evaluation["task"],
        evaluation["split"],
        evaluation["examples"],
        tuple(evaluation["headline"]),
        tuple(lines),
    )


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' names, or their paths if two names are equal."""
    short = [folder.resolve().name for folder in folders]
    return short if len(set(short)) == len(short) else [str(folder) for folder in folders]


def _opened(folder: Path, name: str) -> _Evaluated:
    run = Run.open(folder)
    if not run.evaluation_path.is_file():
        raise FormatError(f"{folder} has not been evaluated: run `ptune evaluate {folder}` first")
    return _Evaluated(run, name, read_json(run.evaluation_path), run.record(), Recipe.load(run.recipe_path))


def _refuse_different(one: _Evaluated, other: _Evaluated) -> None:
    """Raises: UsageError that lists every difference that makes the figures incomparable."""
    a, b = _basis(one), _basis(other)
    apart = [
        f"{what} ({a.get(what, 'none')} and {b.get(what, 'none')})"
        for what in a | b
        if a.get(what) != b.get(what)
    ]
    if apart:
        raise UsageError(
            f"{one.run.folder} and {other.run.folder} cannot be compared, they were not judged by the same: "
            f"{'; '.join(apart)}. Evaluate both on the same files: ptune evaluate RUN --data FILE"
        )


def _basis(evaluated: _Evaluated) -> dict[str, str]:
    """The things that must be equal: task, labels, split, each file by its hash, the rows."""
    evaluation = evaluated.evaluation
    if "metrics" not in evaluation:
        return _basis_of_chat(evaluated)
    return {
        "task": f"{evaluation['task']}, {evaluation['problem']}",
        "labels": ", ".join(evaluation["labels"]),
        "split": evaluation["split"],
        "number of rows": str(evaluation["examples"]),
        **_hashes(evaluation["files"]),
        "rows": evaluation["rows_sha256"][:12],
    }


def _basis_of_chat(evaluated: _Evaluated) -> dict[str, str]:
    """As `_basis`. Rows that were split off are those that the seed drew; rewards are one scale only if they are the same."""
    evaluation, recipe = evaluated.evaluation, evaluated.recipe
    files = read_json(evaluated.run.data_path)["files"]
    chosen = [file for file in files if file["split"] == evaluation["split"]]
    basis = {
        "task": "chat, rewarded" if "rewards" in evaluation else "chat",
        "split": evaluation["split"],
        "number of examples": str(evaluation["examples"]),
        "number of targets": str(evaluation["after"].get("targets")),
        **_hashes(chosen or files),
    }
    if isinstance(recipe.task, Reinforcement):
        basis["rewards"] = ", ".join(re.sub(r"[^*]*/", "", reward) for reward in recipe.task.rewards)
    if not chosen:
        basis["train.seed, which held rows out"] = str(recipe.train.seed)
        basis["data.validation_share"] = f"{recipe.data.validation_share:g}"
    return basis


def _hashes(files: Sequence[dict[str, Any]]) -> dict[str, str]:
    return {f"SHA-256 of {Path(file['path']).name}": file["sha256"][:12] for file in files}


def _predictions(evaluated: _Evaluated) -> list[dict[str, Any]]:
    """The lines of predictions.jsonl. Raises: FormatError if they do not belong to the evaluation."""
    path = evaluated.run.folder / "predictions.jsonl"
    try:
        lines = read_json_lines(path)
    except (OSError, ValueError) as error:
        raise FormatError(
            f"cannot read {path}: {error}; run `ptune evaluate {evaluated.run.folder}` again"
        ) from None
    if len(lines) != evaluated.evaluation["examples"]:
        raise FormatError(
            f"{path} has {len(lines)} rows, evaluation.json {evaluated.evaluation['examples']}: run `ptune evaluate "
            f"{evaluated.run.folder}` again"
        )
    return lines


def _line(
    evaluated: _Evaluated,
    metrics: dict[str, float],
    intervals: dict[str, Sequence[float]],
    apart: tuple[Difference, ...] = (),
) -> Compared:
    return Compared(
        name=evaluated.name,
        metrics=metrics,
        intervals=intervals,
        parameters=_trained(evaluated.run),
        seconds=evaluated.record.seconds,
        steps=evaluated.record.steps,
        method=evaluated.record.method,
        lr=evaluated.recipe.train.lr,
        differences=apart,
    )


def _of_reward(evaluated: _Evaluated) -> dict[str, Sequence[float]]:
    """The interval of a reward; other figures of chat runs have none."""
    interval = evaluated.evaluation.get("rewards", {}).get("tuned", {}).get("reward", {}).get("interval")
    return {} if interval is None else {"reward": interval}


def _trained(run: Run) -> int | None:
    """Number of trained values, from a checkpoint or the adapter; None if neither exists."""
    kept = sorted(run.checkpoints_path.glob("step-*/weights.safetensors"))
    for path in (*kept[-1:], run.adapter_path / "adapter_model.safetensors"):
        if path.is_file():
            return _values(path)
    return None


def _values(path: Path) -> int:
    """Number of values in a safetensors file; only its header is read."""
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.offset_keys())
