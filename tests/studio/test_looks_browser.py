"""Each tab in a real browser, all of it unfolded: it fits, can be read, is named for a screen reader, shows where the keyboard
is, and is light on paper.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.browsing import FITS, NEEDS_BROWSER
from support.fake_chat_model import wait_until
from support.legible import faint, nameless, unseen
from support.studio_page import Opened, browser, opened

from ptune.config.chat import Chat
from ptune.config.recipe import Recipe
from ptune.formats.bundle import BaseIdentity
from ptune.formats.run import RunRecord
from ptune.formats.whole_write import write_text

pytestmark = NEEDS_BROWSER
FOLDED = {
    "Data": (),
    "Recipe": ("all-options",),
    "Run": (),
    "Judge": ("judge-compare", "judge-report"),
    "Ship": ("ship-beside", "ship-add", "ship-canary", "ship-push"),
    "Serve": ("serve-key-form",),
}
PRESSES = 25  # of Tab: through what is on top, and the first controls of the tab
STILL = "* { transition: none !important; animation: none !important; }"


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    folder = tmp_path_factory.mktemp("studio")
    _run(folder / "runs" / "a-run-with-a-long-name-of-one-word-that-has-no-place-to-be-broken")
    with browser() as chromium, opened(folder, chromium) as page:
        page.open("Data")
        page.page.add_style_tag(content=STILL)
        yield page


def _run(folder: Path) -> None:
    folder.mkdir(parents=True)
    base = BaseIdentity(source="tiny", hash="0" * 64)
    record = RunRecord(created="2024", base=base, status="finished")
    write_text(folder / "run.json", record.model_dump_json())
    Recipe(task=Chat()).save(folder / "recipe.yaml")


def test_a_menu_that_the_keyboard_leaves_is_closed(studio: Opened) -> None:
    page = studio.page
    studio.box("task").focus()
    page.get_by_role("option").first.wait_for()
    page.keyboard.press("Shift+Tab")
    page.get_by_role("option").first.wait_for(state="hidden")
    page.keyboard.press("Tab")
    page.get_by_role("option").first.wait_for()
    page.keyboard.press("Escape")
    page.keyboard.press("Tab")
    page.wait_for_timeout(500)
    assert not page.get_by_role("option").first.is_visible()


@pytest.mark.parametrize("tab", FOLDED)
def test_a_tab_can_be_read_and_reached(studio: Opened, tab: str) -> None:
    page = studio.page
    studio.go(tab)
    for name in FOLDED[tab]:
        if page.locator(f"#{name} > button").is_visible():
            studio.unfold(name)
    page.wait_for_timeout(500)
    assert nameless(page) == []
    for dark in (False, True):
        page.evaluate("dark => document.body.classList.toggle('dark', dark)", dark)
        wait_until(lambda: faint(page) == {})
        for width in (320, 420, 1280, 2560):
            page.set_viewport_size({"width": width, "height": 900})
            wait_until(lambda: page.evaluate(FITS))
    page.set_viewport_size({"width": 1280, "height": 900})
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert faint(page) == {}
    page.emulate_media(media="screen")
    page.evaluate("document.body.classList.remove('dark')")
    page.evaluate("document.activeElement.blur()")
    assert unseen(page, PRESSES) == []
