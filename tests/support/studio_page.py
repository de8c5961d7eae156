"""The studio as a user starts it, and a browser on its page."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import PIPE, Popen
from typing import TYPE_CHECKING

from support.browsing import ARGUMENTS, CHROMIUM, FITS, GIVE_UP_MS, watch
from support.fake_chat_model import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

FEW_OPTIONS = 12  # fewer than a part of the recipe has, more than any search by a whole name finds


@dataclass
class Opened:
    """A page of a studio that can be ended and begun again."""

    folder: Path
    page: Page
    elsewhere: list[str] = field(default_factory=list)  # requests to anywhere but a studio
    blocked: list[str] = field(default_factory=list)  # what the browser did not load or run
    process: Popen[str] | None = None
    url: str = ""

    def begin(self) -> None:
        """Starts a studio on the folder."""
        command = [sys.executable, "-m", "ptune", "studio", "--folder", str(self.folder), "--port", "0"]
        self.process = Popen(command, stdout=PIPE, text=True)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().removeprefix("Studio: ").strip()
        assert self.url

    def end(self, number: int = signal.SIGTERM) -> None:
        """Ends the studio."""
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait()

    def open(self, tab: str) -> None:
        """Loads the page, and goes to a tab."""
        self.page.goto(self.url)
        self.page.wait_for_function("document.querySelector('#heading h1')?.innerText === 'ptune studio'")
        self.go(tab)

    def go(self, tab: str) -> None:
        self.page.get_by_role("tab", name=tab, exact=True).click()

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).locator("visible=true").click()

    def unfold(self, name: str) -> None:
        """Opens what is folded: the element with this id."""
        self.page.locator(f"#{name} > button").click()

    def drop(self, *files: Path) -> None:
        """Drops files on the tab Data."""
        self.page.locator("input[type=file]").first.set_input_files(list(files))

    def box(self, name: str) -> Locator:
        """Where one types: the element with this id."""
        return self.page.locator(f'[id="{name}"]').locator("textarea, input").first

    def choose(self, name: str, value: str) -> None:
        """Types a value into a list that takes any."""
        box = self.box(name)
        box.fill(value)
        box.press("Enter")

    def holds(self, name: str, value: str) -> bool:
        """Whether this is typed in a box."""
        return self.box(name).input_value() == value

    def text(self, name: str) -> str:
        """What an element says."""
        return self.page.locator(f'[id="{name}"]').inner_text()

    def says(self, name: str, *words: str) -> None:
        """Waits until an element says all of these."""
        wait_until(lambda: all(word in self.text(name) for word in words))

    def option(self, name: str, value: str, told: str = "diff") -> None:
        """Searches an option of the recipe, and sets it. told: the element that names it then."""
        self.box("search").fill(name)
        # Until the search is answered the options of a part stand there, the same one among them, and are drawn anew.
        wait_until(lambda: self.page.locator('[id^="option-"]').count() < FEW_OPTIONS)
        box = self.box(f"option-{name}")
        box.wait_for()
        box.fill(value)
        self.says(told, name)


@contextmanager
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS.split())


@contextmanager
def opened(folder: Path, chromium: Browser) -> Iterator[Opened]:
    """A studio on a folder, with a page. Nothing may be loaded from elsewhere, and no script be refused."""
    page = chromium.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(GIVE_UP_MS)
    studio = Opened(folder, page)

    watch(page, "http://127.0.0.1:", studio.elsewhere, studio.blocked)
    studio.begin()
    try:
        yield studio
        assert studio.elsewhere == []
        assert studio.blocked == []
    finally:
        page.close()
        assert studio.process is not None
        studio.process.kill()
        studio.process.wait()


SIZES = ((1280, False), (1280, True), (420, False), (420, True))  # width, dark


def photographed(studio: Opened, name: str) -> None:
    """Holds that the page fits wide and narrow windows; and makes pictures for the docs, where a folder for them is named."""
    folder = os.environ.get("PTUNE_SCREENSHOTS")
    for width, dark in SIZES:
        studio.page.set_viewport_size({"width": width, "height": 900})
        studio.page.evaluate("dark => document.body.classList.toggle('dark', dark)", dark)
        studio.page.wait_for_function(FITS)
        if folder is not None:
            studio.page.wait_for_timeout(400)
            picture = Path(folder) / f"studio-{name}-{width}{'-dark' if dark else ''}.png"
            studio.page.screenshot(path=str(picture), full_page=True)
    studio.page.evaluate("document.body.classList.remove('dark')")
    studio.page.set_viewport_size({"width": 1280, "height": 900})
