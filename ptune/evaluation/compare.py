"""Several evaluated runs as one table: figures with intervals, what training cost, and paired tests where rows are the same."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptune.config.recipe import Recipe
from ptune.errors import FormatError, UsageError
from ptune.evaluation.paired import Difference, differences
from ptune.formats.run import Run, RunRecord
from ptune.formats.whole_write import read_json

CHAT_METRICS = ("loss", "perplexity", "token_accuracy")


@dataclass(frozen=True)
class Compared:
    """One run's line of the table."""

    name: str
    metrics: dict[str, float]
    intervals: dict[str, Sequence[float]]
    parameters: int | None  # trained
    seconds: float
    steps: int
    method: str
    lr: float
    differences: tuple[Difference, ...] = ()  # from the first run


@dataclass(frozen=True)
class Comparison:
    """All lines, on the same data."""

    task: str
    split: str
    examples: int
    metrics: tuple[str, ...]  # columns
    runs: tuple[Compared, ...]


@dataclass(frozen=True)
class _Evaluated:
    run: Run
    name: str
    found: dict[str, Any]
    record: RunRecord
    recipe: Recipe


def compare(folders: Sequence[Path], seed: int = 0) -> Comparison:
    """Reads what `ptune evaluate` wrote into the runs; each is compared with the first.

    Raises: UsageError for fewer than two runs, or runs of different tasks or data, with what differs; FormatError where
    a run has not been evaluated.
    """
    if len(folders) < 2:
        raise UsageError("compare needs two runs or more: ptune compare RUN RUN…")
    names = _names(folders)
    runs = [_opened(folder, name) for folder, name in zip(folders, names, strict=True)]
    for other in runs[1:]:
        _refuse_different(runs[0], other)
    first, classifies = runs[0], "metrics" in runs[0].found
    if not classifies:
        chats = tuple(_line(one, one.found["after"], {}) for one in runs)
        return Comparison("chat", first.found["split"], first.found["examples"], CHAT_METRICS, chats)
    predicted = [_predictions(one) for one in runs]
    found = first.found
    lines = []
    for one, said in zip(runs, predicted, strict=True):
        apart = (
            differences(found["problem"], found["labels"], said, predicted[0], seed)
            if one is not first
            else []
        )
        lines.append(_line(one, one.found["metrics"], one.found["intervals"], tuple(apart)))
    return Comparison(
        found["task"], found["split"], found["examples"], tuple(found["headline"]), tuple(lines)
    )


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' names, or their paths where names are the same."""
    short = [folder.resolve().name for folder in folders]
    return short if len(set(short)) == len(short) else [str(folder) for folder in folders]


def _opened(folder: Path, name: str) -> _Evaluated:
    run = Run.open(folder)
    if not run.evaluation_path.is_file():
        raise FormatError(f"{folder} has not been evaluated: run `ptune evaluate {folder}` first")
    return _Evaluated(run, name, read_json(run.evaluation_path), run.record(), Recipe.load(run.recipe_path))


def _refuse_different(one: _Evaluated, other: _Evaluated) -> None:
    """Raises: UsageError that names every difference which makes figures incomparable."""
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


def _basis(one: _Evaluated) -> dict[str, str]:
    """What must be the same: task, labels, split, each file by its hash, the rows."""
    found = one.found
    if "metrics" not in found:
        files = read_json(one.run.data_path)["files"]
        chosen = [file for file in files if file["split"] == found["split"]] or files
        basis = {"task": "chat", "split": found["split"], "number of examples": str(found["examples"])}
        return {**basis, "number of targets": str(found["after"]["targets"]), **_hashes(chosen)}
    return {
        "task": f"{found['task']}, {found['problem']}",
        "labels": ", ".join(found["labels"]),
        "split": found["split"],
        "number of rows": str(found["examples"]),
        **_hashes(found["files"]),
        "rows": found["rows_sha256"][:12],
    }


def _hashes(files: Sequence[dict[str, Any]]) -> dict[str, str]:
    return {f"SHA-256 of {Path(file['path']).name}": file["sha256"][:12] for file in files}


def _predictions(one: _Evaluated) -> list[dict[str, Any]]:
    """The lines of predictions.jsonl. Raises: FormatError where they are not those of the evaluation."""
    path = one.run.folder / "predictions.jsonl"
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise FormatError(
            f"cannot read {path}: {error}; run `ptune evaluate {one.run.folder}` again"
        ) from None
    if len(lines) != one.found["examples"]:
        raise FormatError(
            f"{path} has {len(lines)} rows, evaluation.json {one.found['examples']}: run `ptune evaluate "
            f"{one.run.folder}` again"
        )
    return lines


def _line(
    one: _Evaluated,
    metrics: dict[str, float],
    intervals: dict[str, Sequence[float]],
    apart: tuple[Difference, ...] = (),
) -> Compared:
    return Compared(
        name=one.name,
        metrics=metrics,
        intervals=intervals,
        parameters=_trained(one.run),
        seconds=one.record.seconds,
        steps=one.record.steps,
        method=one.record.method,
        lr=one.recipe.train.lr,
        differences=apart,
    )


def _trained(run: Run) -> int | None:
    """How many values were trained: those of a checkpoint, or of the adapter; None where neither is left."""
    kept = sorted(run.checkpoints_path.glob("step-*/weights.safetensors"))
    for path in (*kept[-1:], run.adapter_path / "adapter_model.safetensors"):
        if path.is_file():
            return _values(path)
    return None


def _values(path: Path) -> int:
    """How many numbers a safetensors file holds; only its header is read."""
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.offset_keys())
