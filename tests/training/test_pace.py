"""How long a training takes, told by steps that were timed or by an earlier run of the same work."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from ptune.config.columns import PairColumns
from ptune.config.recipe import Backbone, Data, Recipe, Train
from ptune.data.shapes.pairs import read_pair_splits
from ptune.formats.bundle import BaseIdentity
from ptune.formats.run import RunRecord
from ptune.methods.lora import Lora
from ptune.training.journal import pace
from ptune.training.journal.pace import Length, Pace

HERE = ("AVX2", 2)


def recipe(**changes: Any) -> Recipe:
    made = Recipe(name="mine", data=Data(files=(Path("faq.jsonl"),)), train=Train(batch_size=8))
    return made.model_copy(update=changes)


def ran(
    folder: Path, trained: Recipe, *, step_s: float, steps: int = 10, seconds: float = 0.0, **fields: Any
) -> None:
    """A run as `ptune train` leaves it."""
    folder.mkdir(parents=True)
    trained = trained.model_copy(
        update={"backbone": trained.backbone.model_copy(update={"dtype": "float32"})}
    )
    trained.save(folder / "recipe.yaml")
    entries = [{"step": at + 1, "loss": 1.0, "seconds": step_s} for at in range(steps)]
    entries += [{"step": 5, "validation_loss": 1.0}, {"step": 10, "validation_loss": 1.0}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    base = BaseIdentity(source="tiny", hash="0" * 64)
    about: dict[str, Any] = {"instruction_set": HERE[0], "threads": HERE[1], **fields}
    record = RunRecord(created="2024", base=base, status="finished", seconds=seconds, **about)
    (folder / "run.json").write_text(record.model_dump_json())


def test_how_much_a_training_is() -> None:
    """A hundred examples in steps of 8: 13 steps an epoch, and a validation every 3, the last step included."""
    assert pace.length(recipe(), 100) == Length(13, 5, 100)
    long = recipe(train=Train(batch_size=8, epochs=3, patience=2, validate_every=10))
    assert pace.length(long, 100) == Length(38, 4, 100, at_most=True)
    assert pace.length(long, 100, validated=False).validations == 0


def test_how_long_that_is() -> None:
    found, known = Length(30, 2, 100), Pace(2.0, 15.0, "runs/mine")
    assert found.lasts_s(known) == 90
    assert found.told(known) == (
        "about 1 min 30 s on this machine: 30 steps of 2 s and 2 validations of 15 s, by runs/mine; loading and saving not counted"
    )
    document = pace.document(found, known)
    assert json.loads(json.dumps(document)) == document
    assert pace.pace_in(document) == known


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other", "train": Train(batch_size=8, lr=1.0, epochs=9, seed=3, patience=2, warmup=0.0)},
        {"data": Data(files=(Path("faq.jsonl"),), limit=5)},
    ],
)
def test_a_run_of_the_same_steps_tells_the_pace(tmp_path: Path, changes: dict[str, Any]) -> None:
    ran(tmp_path / "before", recipe(), step_s=0.5, seconds=9.0)
    assert pace.of_earlier_run(recipe(**changes), tmp_path, HERE) == Pace(0.5, 2.0, "runs/before")


@pytest.mark.parametrize(
    "changes",
    [
        {"train": Train(batch_size=4)},
        {"train": Train(batch_size=8, gradient_checkpointing=True)},
        {"method": Lora(r=4)},
        {"backbone": Backbone(model="other")},
        {"backbone": Backbone(dtype="bfloat16")},
        {"data": Data(files=(Path("longer.jsonl"),))},
    ],
)
def test_a_run_of_other_steps_tells_nothing(tmp_path: Path, changes: dict[str, Any]) -> None:
    ran(tmp_path / "before", recipe(), step_s=0.5)
    assert pace.of_earlier_run(recipe(**changes), tmp_path) is None


def test_a_run_elsewhere_or_of_few_steps_tells_nothing(tmp_path: Path) -> None:
    ran(tmp_path / "elsewhere", recipe(), step_s=0.5, threads=64)
    ran(tmp_path / "short", recipe(), step_s=0.5, steps=3)
    ran(tmp_path / "many", recipe(), step_s=0.5, processes=2)
    assert pace.of_earlier_run(recipe(), tmp_path, HERE) is None
    assert pace.of_earlier_run(recipe(), tmp_path / "none", HERE) is None


def test_the_newest_run_is_asked_and_a_damaged_one_passed_over(tmp_path: Path) -> None:
    for at, name in enumerate(("old", "new", "damaged")):
        ran(tmp_path / name, recipe(), step_s=at + 1.0)
        os.utime(tmp_path / name / "run.json", (at, at))
    (tmp_path / "damaged" / "recipe.yaml").write_text("name: [")
    found = pace.of_earlier_run(recipe(), tmp_path, HERE)
    assert found is not None
    assert (found.step_s, found.by) == (2.0, "runs/new")


def test_examples_of_rows() -> None:
    assert pace.examples_of(recipe(), 60) == 54
    assert pace.examples_of(recipe(data=Data(files=(Path("f"),), validation=(Path("v"),))), 60) == 60
    assert pace.examples_of(recipe(data=Data(files=(Path("f"),), limit=20)), 60) == 20
    assert pace.examples_of(recipe(data=Data(files=(Path("f"),), limit=57)), 60) == 54


def test_examples_are_those_of_a_training_with_a_limit(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    rows = [json.dumps({"anchor": f"question {at}", "positive": f"answer {at}"}) for at in range(100)]
    file.write_text("\n".join(rows), encoding="utf-8")
    for limit in (None, 30, 95):
        data = Data(files=(file,), limit=limit)
        trained = read_pair_splits(data, 0, PairColumns()).rows["train"]
        assert pace.examples_of(recipe(data=data), 100) == len(trained)
