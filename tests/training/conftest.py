"""A tiny model, a handful of conversations and a recipe that trains in a second."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ptune.config.recipe import Backbone, Data, Evaluate, Recipe, Train
from ptune.errors import PtuneError
from ptune.methods.lora import Lora

TRAIN = {"epochs": 1.0, "lr": 5e-3, "batch_size": 4, "micro_batch_tokens": 128}

Make = Callable[..., Recipe]


def interrupt(monkeypatch: pytest.MonkeyPatch, step: int, rollbacks: int = 0) -> None:
    """Sends this process a real SIGINT in the middle of a step that is run after so many rollbacks, once."""
    from ptune.training.journal.metrics_log import Journal

    write, left = Journal.write, [step]

    def signalling(self: Journal, step: int, **values: float) -> None:
        write(self, step, **values)
        if step in left and "loss" in values and values.get("rollbacks", 0) == rollbacks:
            left.clear()
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Journal, "write", signalling)


@pytest.fixture
def interrupt_at(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Interrupts step 3, or the step in `request.param`."""
    interrupt(monkeypatch, getattr(request, "param", 3))


@pytest.fixture(scope="session")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model/ (llama), train.jsonl with 24 conversations, test.jsonl with 8 others."""
    from support import tiny_models

    folder = tmp_path_factory.mktemp("kit")

    tiny_models.build(folder / "model", "llama")
    rows = tiny_models.conversations(32)
    tiny_models.write_jsonl(folder / "train.jsonl", rows[:24])
    tiny_models.write_jsonl(folder / "test.jsonl", rows[24:])
    return folder


@pytest.fixture
def make(kit: Path) -> Make:
    """make(method=…, backbone={…}, **train) -> Recipe"""

    def recipe(method: Any = None, backbone: dict[str, Any] | None = None, **train: Any) -> Recipe:
        return Recipe(
            name="tiny",
            backbone=Backbone(**{"model": str(kit / "model"), "dtype": "float32", **(backbone or {})}),
            method=method or Lora(r=4, alpha=8),
            data=Data(files=(kit / "train.jsonl",), test=(kit / "test.jsonl",)),
            train=Train(**{**TRAIN, **train}),
            evaluate=Evaluate(answers=2, answer_tokens=6, in_context=2),
        )

    return recipe


@pytest.fixture(scope="session")
def farm() -> Iterator[Callable[..., Any]]:
    """farm(recipe, out, **request) -> answer: a run in processes of its own, see forked.py."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).parents[1] / "support" / "forked.py")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    answers = process.stdout

    def ask(recipe: Recipe, out: Path, **request: Any) -> SimpleNamespace:
        written = out.with_name(f"{out.name}.yaml")
        recipe.save(written)
        print(
            json.dumps({"recipe": str(written), "out": str(out), **request}), file=process.stdin, flush=True
        )
        line = answers.readline()
        assert line, "the process that forks has died"
        return SimpleNamespace(**json.loads(line))

    yield ask
    process.stdin.close()
    process.wait(timeout=30)


def fingerprint(folder: Path) -> dict[str, str]:
    return {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.iterdir())
        if p.suffix != ".md"
    }


def refused(kind: type[PtuneError], recipe: Recipe, out: Path, *, resume: bool = False) -> str:
    from ptune.fine_tune import train

    with pytest.raises(kind) as caught:
        train(recipe, out, resume=resume)
    return str(caught.value)
