"""A new task is one folder and one line: a copy of ptune gets both, and trains, judges, exports and serves it."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.classified import PLAIN, encoder, write

ROOT = Path(__file__).parents[2]
LINE = (
    '    Task(spec="ptune.tasks.toy.spec:TextLength", name="text-length", hub="text-classification", kind="encoder",'
    ' work="ptune.tasks.toy.work:prepare", doctor="ptune.tasks.toy.doctor:examine",'
    ' evaluate="ptune.evaluation.classification.evaluate:evaluate_run", held_out="ptune.tasks.toy.data:held_out",'
    ' endpoints=("/v1/length", "/v1/classify"), routers=("ptune_serve.encoders.classify:router",'
    ' "ptune.tasks.toy.endpoint:router"), example={"text": "Hello!"}, tab="Text"),\n'
)
RECIPE = """
from ptune.config.recipe import Backbone, Data, Recipe, Train
from ptune.methods.lora import Lora
from ptune.tasks.toy.spec import TextLength

recipe = Recipe(
    name="lengths",
    task=TextLength(boundary=30),
    backbone=Backbone(model="model"),
    method=Lora(r=4, alpha=8),
    data=Data(files=("train.jsonl",), validation=("test.jsonl",), test=("test.jsonl",)),
    train=Train(max_steps=20, lr=1e-2, batch_size=8),
)
"""
COMMANDS = (
    "doctor lengths.py",
    "train lengths.py",
    "export runs/lengths --threads 1",
    "evaluate runs/lengths --bundle bundles/lengths --threads 1",
)
RUN_ALL = "import sys; from ptune.cli import main\nfor line in sys.argv[1:]:\n    assert main(line.split()) == 0, line"


def copy_with_toy(place: Path) -> dict[str, str]:
    """ptune and its server in `place`, with one more folder and one more line; returns a child's environment."""
    left = shutil.ignore_patterns("__pycache__", "samples")
    for folder, name in (("ptune", "ptune"), ("serve", "ptune_serve"), ("recipes", "ptune_recipes")):
        shutil.copytree(ROOT / folder, place / name, ignore=left)
    shutil.copytree(ROOT / "tests" / "support" / "toy_task", place / "ptune" / "tasks" / "toy", ignore=left)
    table = place / "ptune" / "config" / "tasks.py"
    lines = table.read_text(encoding="utf-8").splitlines(keepends=True)
    begin = next(at for at, line in enumerate(lines) if line.startswith("TASKS"))
    end = next(at for at, line in enumerate(lines) if at > begin and line == ")\n")
    table.write_text("".join([*lines[:end], LINE, *lines[end:]]), encoding="utf-8")
    return {**os.environ, "PYTHONPATH": str(place)}


def texts(count: int, seed: int) -> list[dict[str, Any]]:
    """Texts of 1 to 11 words, none twice."""
    chance, found = random.Random(seed), set[str]()
    while len(found) < count:
        found.add(" ".join(chance.choices(PLAIN, k=chance.choice((1, 2, 3, 8, 10, 11)))))
    return [{"text": text} for text in sorted(found)]


@contextmanager
def serving(folder: Path, environment: dict[str, str]) -> Iterator[httpx.Client]:
    """A client of a real server of the bundle."""
    ready = folder / "ready"
    asked = ["serve", "bundles/lengths", "--port", "0", "--no-ui", "--threads", "1", "--ready-file", "ready"]
    with (
        (folder / "served.txt").open("w") as said,
        subprocess.Popen(
            [sys.executable, "-m", "ptune", *asked], cwd=folder, env=environment, stdout=said
        ) as server,
    ):
        try:
            while not ready.is_file():
                assert server.poll() is None, "the server ended"
                time.sleep(0.05)
            with httpx.Client(base_url=ready.read_text().strip(), timeout=60) as client:
                yield client
        finally:
            server.terminate()


def child(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder in which the toy task was trained, judged and exported, and the environment that has the task."""
    environment = copy_with_toy(tmp_path_factory.mktemp("source"))
    folder = tmp_path_factory.mktemp("work")
    encoder(folder / "model")
    write(folder / "train.jsonl", texts(120, 0))
    write(folder / "test.jsonl", texts(32, 1))
    (folder / "lengths.py").write_text(RECIPE)
    said = child(["-c", RUN_ALL, *COMMANDS], folder, environment)
    assert "texts: " in said, "its own doctor"
    return folder, environment


def test_it_is_trained_and_judged(work: tuple[Path, dict[str, str]]) -> None:
    run = work[0] / "runs" / "lengths"
    assert "kind: TextLength" in (run / "recipe.yaml").read_text()
    assert "pipeline_tag: text-classification" in (run / "README.md").read_text()
    facts = json.loads((run / "adapter" / "ptune.json").read_text())
    assert (facts["task"], facts["labels"]) == ("text-length", ["short", "long"])
    judged = json.loads((run / "evaluation.json").read_text())
    assert set(judged["sides"]) == {"torch", "ONNX"}
    assert judged["examples"] == 32
    assert judged["metrics"]["accuracy"] > 0.7, "a text's length is learnt in twenty steps"


def test_it_is_served_at_its_own_endpoint(work: tuple[Path, dict[str, str]]) -> None:
    folder, environment = work
    long, short = "the food was the food was the food was fine the trip was fine", "food"
    with serving(folder, environment) as client:
        (card,) = client.get("/v1/models").json()["data"]
        assert (card["task"], card["endpoint"]) == ("text-length", "/v1/length")
        for text, label in ((long, "long"), (short, "short")):
            answer = client.post("/v1/length", json={"model": "lengths", "text": text})
            assert answer.json() == {"model": "lengths", "length": label}
        found = client.post("/v1/classify", json={"model": "lengths", "input": [long]}).json()
        assert found["data"][0]["label"] == "long"
        wrong = client.post("/v1/tag", json={"model": "lengths", "input": ["a"]})
        assert wrong.status_code == 400
        assert "send this to /v1/length" in wrong.json()["error"]["message"]
        assert "/v1/length" in client.get("/openapi.json").json()["paths"]
        (tried,) = re.findall(
            r"^Try: curl (\S+) .* -d '(.*)'$", (folder / "served.txt").read_text(), re.MULTILINE
        )
        assert client.post(tried[0], json=json.loads(tried[1])).json() == {
            "model": "lengths",
            "length": "short",
        }


def test_what_it_does_not_bring_is_said_in_words(work: tuple[Path, dict[str, str]]) -> None:
    folder, environment = work
    asked = ["evaluate", "bundles/lengths", "--data", "test.jsonl"]
    done = subprocess.run(
        [sys.executable, "-m", "ptune", *asked], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 2
    assert "judged with its run: its task is text-length" in done.stderr


def test_the_command_line_and_the_page_know_it(work: tuple[Path, dict[str, str]]) -> None:
    folder, environment = work
    assert "TextLength" in child(["-m", "ptune", "train", "--help"], folder, environment)
    asked = "from ptune.config.tasks import tab_names; print(*tab_names('Text'))"
    assert child(["-c", asked], folder, environment).split() == ["text-classification", "text-length"]
