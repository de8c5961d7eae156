"""Progress tells what is done, how fast, and how long it will take."""

from __future__ import annotations

import io
import sys
import time

import pytest
from rich.console import Console

from ptune import progress
from ptune.progress import Progress, duration


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now_s)


def test_plain_lines_come_at_most_every_ten_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock(monkeypatch)
    with Progress("training", 100, unit="steps") as bar:
        for _ in range(100):
            clock.now_s += 0.5
            bar.advance(note="loss 2.5")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "training: 4/100 steps, 2 steps/s, 48 s left, loss 2.5",
        "training: 24/100 steps, 2 steps/s, 38 s left, loss 2.5",
        "training: 44/100 steps, 2 steps/s, 28 s left, loss 2.5",
        "training: 64/100 steps, 2 steps/s, 18 s left, loss 2.5",
        "training: 84/100 steps, 2 steps/s, 8 s left, loss 2.5",
        "training: 100/100 steps, 2 steps/s, took 50 s, loss 2.5",
    ]


def test_a_unit_that_takes_long_is_told_of_while_it_is_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock(monkeypatch)
    with Progress("training", 2, delay_s=0.0) as bar:
        for _ in range(2):
            for number in range(1, 5):
                bar.underway(f"pass {number} of 4")
                clock.now_s += 6
            bar.advance()
    assert capsys.readouterr().err.splitlines() == [
        "training: 0/2 steps (pass 3 of 4)",
        "training: 1/2 steps, 0.0417 steps/s, 24 s left",
        "training: 1/2 steps (pass 3 of 4), 0.0278 steps/s, 36 s left",
        "training: 2/2 steps, 0.0417 steps/s, took 48 s",
    ]


def test_of_quick_units_nothing_more_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock(monkeypatch)
    with Progress("training", 40, delay_s=0.0) as bar:
        for _ in range(40):
            bar.underway("pass 1 of 1")
            clock.now_s += 0.5
            bar.advance()
    assert [line for line in capsys.readouterr().err.splitlines() if "pass" in line] == []


def test_what_is_over_at_once_shows_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock(monkeypatch)
    with Progress("hashing", 10) as bar:
        clock.now_s += 1.9
        bar.advance(10)
    assert capsys.readouterr().err == ""


def test_the_rate_is_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    with Progress("training", 100, done=60) as bar:
        clock.now_s += 10
        bar.advance(20)
        assert bar.status() == "80/100 steps, 2 steps/s, 10 s left"


def test_other_processes_are_silent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock(monkeypatch)
    with Progress("training", 2, enabled=False) as bar:
        clock.now_s += 30
        bar.advance(2)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("seconds", "words"), [(7.6, "8 s"), (155, "2 min 35 s"), (3900, "1 h 05 min")])
def test_durations_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_terminal_gets_a_bar_and_lines_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, screen = Clock(monkeypatch), io.StringIO()
    monkeypatch.setattr(
        progress, "console", Console(file=screen, force_terminal=True, width=120, highlight=False)
    )
    with Progress("training", 4) as bar:
        for _ in range(4):
            clock.now_s += 5
            bar.advance(note="loss 2.5")
        progress.say("step 4: validation loss 2.4 [best]")
    assert "4/4 steps, 0.2 steps/s, took 20 s, loss 2.5" in screen.getvalue()
    assert "step 4: validation loss 2.4 [best]" in screen.getvalue()


class FakeDisplay:
    """IPython.display of a notebook that keeps what it shows."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def display(self, shown: dict[str, str], *, raw: bool, display_id: bool) -> FakeDisplay:
        assert raw
        assert display_id
        self.lines.append(shown["text/plain"])
        return self

    def update(self, shown: dict[str, str], *, raw: bool) -> None:
        self.lines[-1] = shown["text/plain"]


def test_a_notebook_has_one_line_that_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = FakeDisplay()
    monkeypatch.setitem(sys.modules, "IPython.display", notebook)
    monkeypatch.setattr(progress.console, "is_jupyter", True)
    with progress.Progress("training", 3, delay_s=0.0) as bar:
        for done in range(3):
            bar.advance(note=f"loss {done}")
    assert len(notebook.lines) == 1
    assert notebook.lines[0].startswith("training: 3/3 steps")
    assert notebook.lines[0].endswith("loss 2")
