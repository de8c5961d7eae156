"""Progress of long operations: count, rate and time left. A bar on a terminal, one updated line in a notebook, plain lines
elsewhere.

Everything goes to stderr, so that a command's result on stdout can be piped.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as RichProgress

LINE_EVERY_S = 10.0  # shortest time between two plain lines
SLOW_S = 2.0  # a unit that takes longer is told of while it is done
REPLACED_EVERY_S = 0.25  # shortest time between two updates of a notebook's line

console = Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str, *, style: str = "") -> None:
    """Prints one line for the user, above the bar if there is one. style: rich's, such as "red"."""
    console.print(text, markup=False, style=style)


@contextlib.contextmanager
def without_others() -> Iterator[None]:
    """Drops what libraries print to stderr, such as bars of their own, unless it is a terminal. Our own lines appear."""
    if console.is_terminal:
        yield
        return
    before = console._file
    console.file = console.file  # where stderr is now
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        console._file = before


class Progress:
    """with Progress("training", 120, unit="steps") as progress: progress.advance(note="loss 3.81")

    An operation shorter than `delay_s` shows nothing. `done`: units finished by an earlier process; they count as done but
    not in the rate.
    """

    def __init__(
        self,
        label: str,
        total: int,
        *,
        unit: str = "steps",
        done: int = 0,
        delay_s: float = SLOW_S,
        enabled: bool = True,
    ) -> None:
        self.label, self.total, self.unit, self.done = label, total, unit, done
        self._done_before, self._delay_s, self._enabled = done, delay_s, enabled
        self._note = self._below = self._part = ""
        self._started_s = self._last_line_s = self._advanced_s = time.monotonic()
        self._bar: RichProgress | None = None
        self._notebook_line: Any = None  # IPython's display handle
        self._shown = -1  # `done` in the last plain line

    def __enter__(self) -> Progress:
        self._started_s = self._last_line_s = self._advanced_s = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._notebook_line is not None:
            self._replace_line()
        elif kind is None and 0 <= self._shown < self.done:
            say(self._line())

    def advance(self, count: int = 1, *, note: str | None = None, below: str | None = None) -> None:
        """Adds `count` finished units. `note` replaces the text at the end of the line.

        `below` continues the note; a terminal shows it on a line of its own.
        """
        self.done += count
        self._part, self._advanced_s = "", time.monotonic()
        if note is not None:
            self._note = note
        if below is not None:
            self._below = below
        if self._enabled and time.monotonic() - self._started_s >= self._delay_s:
            self._show()

    def underway(self, part: str) -> None:
        """What of the next unit is being done, such as "pass 2 of 8". It is shown while a unit takes long."""
        self._part = part
        slow_s = SLOW_S if console.is_terminal or console.is_jupyter else LINE_EVERY_S
        if self._enabled and time.monotonic() - max(self._advanced_s, self._last_line_s) >= slow_s:
            self._show()

    def go_back(self, done: int) -> None:
        """Counts on from `done` units: the others will be done again."""
        self._done_before -= self.done - done
        self.done = done

    def status(self) -> str:
        """The line without its label: '24/120 steps, 0.62 steps/s, 2 min 35 s left, loss 3.81'."""
        elapsed_s = time.monotonic() - self._started_s
        rate = (self.done - self._done_before) / elapsed_s if elapsed_s > 0 else 0.0
        parts = [f"{self.done}/{self.total} {self.unit}" + (f" ({self._part})" if self._part else "")]
        if rate > 0:
            parts.append(f"{rate:.3g} {self.unit}/s")
            left = self.total - self.done
            parts.append(f"{duration(left / rate)} left" if left > 0 else f"took {duration(elapsed_s)}")
        return ", ".join([*parts, self._note] if self._note else parts)

    def _line(self) -> str:
        return ", ".join(filter(None, [f"{self.label}: {self.status()}", self._below]))

    def _replace_line(self) -> None:
        """Replaces the line in the notebook's output."""
        shown = {"text/plain": self._line()}
        if self._notebook_line is None:
            display = importlib.import_module("IPython.display").display
            self._notebook_line = display(shown, raw=True, display_id=True)
        else:
            self._notebook_line.update(shown, raw=True)
        self._last_line_s = time.monotonic()

    def _show(self) -> None:
        if console.is_jupyter:
            if self._notebook_line is None or time.monotonic() - self._last_line_s >= REPLACED_EVERY_S:
                self._replace_line()
            return
        if not console.is_terminal:
            now = time.monotonic()
            if self._shown < 0 or now - self._last_line_s >= LINE_EVERY_S:
                say(self._line())
                self._last_line_s, self._shown = now, self.done
            return
        if self._bar is None:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[status]}", markup=False),
            )
            self._bar = RichProgress(*columns, console=console)
            self._bar.add_task(self.label, total=self.total, status="")
            self._bar.start()
        status = f"{self.status()}\n{self._below}" if self._below else self.status()
        self._bar.update(self._bar.task_ids[0], completed=self.done, status=status)


def duration(seconds: float) -> str:
    """Seconds in words: '8 s', '2 min 35 s', '1 h 05 min'."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest_s = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest_s:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
