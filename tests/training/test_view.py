"""What is shown while training."""

from __future__ import annotations

import io

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from ptune import progress
from ptune.progress import Progress
from ptune.training.journal.view import View, peak_bytes, sparkline

LATEST = {"lr": 5e-4, "grad_norm": 0.5234, "tokens_per_s": 1234.4, "loss": 2.0}


def test_a_sparkline_goes_from_the_smallest_to_the_largest() -> None:
    assert sparkline([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]) == "▁▂▃▄▅▆▇█"
    assert sparkline([5.0, 5.0]) == "▁▁"
    assert sparkline([5.0]) == sparkline([]) == ""


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=200), st.integers(2, 40))
def test_a_sparkline_has_the_first_and_the_last_value(values: list[float], width: int) -> None:
    drawn = sparkline(values, width)
    assert len(drawn) == min(width, len(values))
    assert set(drawn) <= set("▁▂▃▄▅▆▇█")


def test_the_loss_is_smoothed_and_its_course_stays_short() -> None:
    view = View(torch.device("cpu"))
    for step in range(10_000):
        view.see(4.0 if step % 2 else 2.0)
    assert 2.8 < float(view.loss(drawn=False).split()[1]) < 3.2
    assert len(view.loss(drawn=True).split()[2]) == 16
    assert len(view._course) < 200


def test_the_details(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ptune.training.journal.view.peak_bytes", lambda device: 1_900_000_000)
    view = View(torch.device("cpu"))
    assert view.details(LATEST) == "lr 0.0005, gradient 0.52, 1,234 tokens/s, 1.9 GB"
    assert view.details({**LATEST, "validation_loss": 2.4}).startswith("validation 2.4, lr")
    assert view.details({**LATEST, "ratio": 1.0312, "clipped": 0.125}).startswith(
        "ratio 1.031, clipped 0.12, lr 0.0005"
    )


def test_peak_memory_is_that_of_this_process() -> None:
    before = peak_bytes(torch.device("cpu"))
    held = torch.ones(50_000_000)  # 200 MB
    assert peak_bytes(torch.device("cpu")) >= before
    assert peak_bytes(torch.device("cpu")) > held.nbytes


def test_a_terminal_shows_two_lines_and_a_pipe_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress("training", 2, delay_s=0.0) as bar:
        bar.advance(note="loss 2.5", below="lr 0.1")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("training: 1/2 steps")
    assert line.endswith("loss 2.5, lr 0.1")
    screen = io.StringIO()
    monkeypatch.setattr(
        progress, "console", Console(file=screen, force_terminal=True, width=120, highlight=False)
    )
    with Progress("training", 2, delay_s=0.0) as bar:
        bar.advance(2, note="loss 2.5", below="lr 0.1 [tokens]")
    drawn = [line for line in screen.getvalue().splitlines() if "lr 0.1 [tokens]" in line]
    assert drawn
    assert not any("2/2 steps" in line for line in drawn)
