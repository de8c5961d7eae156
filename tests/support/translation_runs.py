"""A run of translation on a tiny model, trained once for all tests of a session, and its bundle."""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
from pathlib import Path

from ptune import publish
from ptune.config.columns import TranslationColumns
from ptune.config.recipe import Backbone, Data, Evaluate, Recipe, Train
from ptune.config.translation import Translation
from ptune.data.read import read
from ptune.fine_tune import train
from ptune.formats.run import Run
from ptune.methods.lora import Lora
from support import tiny_models

NAME = "spanish"
TASK = Translation(
    columns=TranslationColumns(source="en", target="es"),
    source_language="en",
    target_language="es",
    max_length=400,
)


@functools.cache
def kit() -> Path:
    """A folder with a tiny model and the shortest rows of the sample, `train.jsonl` and `test.jsonl`."""
    folder = Path(tempfile.mkdtemp(prefix="ptune-translation-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    tiny_models.build(folder / "model", "llama")
    rows = [row.value for row in read(Path("sample:django_es.train")).rows]
    rows = sorted(rows, key=lambda row: len(row["en"] + row["es"]))[200:240]
    for name, part in (("train", rows[:32]), ("test", rows[32:])):
        text = "".join(json.dumps(row) + "\n" for row in part)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return folder


@functools.cache
def run() -> Run:
    folder = kit()
    recipe = Recipe(
        name=NAME,
        task=TASK,
        backbone=Backbone(model=str(folder / "model"), dtype="float32"),
        method=Lora(r=4, alpha=16),
        data=Data(files=(folder / "train.jsonl",), test=(folder / "test.jsonl",)),
        train=Train(epochs=3, lr=2e-2, batch_size=8),
        evaluate=Evaluate(in_context=2),
    )
    return train(recipe, folder / "run")


@functools.cache
def bundle() -> Path:
    place = kit() / "bundle"
    publish.export_run(run(), place, name=NAME, threads=1, anyway=True)
    return place


@functools.cache
def merged() -> Path:
    """The bundle of the run's merged weights: it has no adapter."""
    place = kit() / "merged"
    publish.export_run(run(), place, name=NAME, merge=True, threads=1, anyway=True)
    return place
