"""What an open page asks for by itself: what can be seen, and nothing while nobody sees it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from support.browsing import NEEDS_BROWSER
from support.fake_chat_model import wait_until
from support.studio_page import Opened, browser, opened

if TYPE_CHECKING:
    from playwright.sync_api import Request

pytestmark = NEEDS_BROWSER
BEAT_MS = 2000
ANSWERED_MS = 400
_HIDDEN = """hidden => {
  Object.defineProperty(document, 'hidden', {get: () => hidden, configurable: true});
  document.dispatchEvent(new Event('visibilitychange'));
}"""


@pytest.fixture
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    with browser() as chromium, opened(tmp_path_factory.mktemp("studio"), chromium) as page:
        yield page


def test_only_what_is_seen_is_asked_for(studio: Opened) -> None:
    asked: list[int] = []

    def note(request: Request) -> None:
        if request.method == "POST" and request.url.startswith(studio.url):
            asked.append(json.loads(request.post_data or "")["fn_index"])

    def events(beats: int) -> set[int]:
        """What is asked for while the page is left alone; its clock is put forward."""
        asked.clear()
        for _ in range(beats):
            studio.page.clock.run_for(BEAT_MS)
            studio.page.wait_for_timeout(ANSWERED_MS)
        return {*asked}

    def settled(kinds: int) -> set[int]:
        """What so many kinds of requests are, once the answers to what was pressed have come and led to no more."""
        wait_until(lambda: len(events(2)) == kinds)
        return {*asked}

    studio.page.on("request", note)
    studio.page.clock.install()
    studio.open("Data")
    heading = settled(1)  # the line on top alone, which says what runs
    seen = set()
    for tab in ("Run", "Judge", "Ship", "Serve"):
        studio.go(tab)
        asked_for = settled(2)  # one request more
        assert heading < asked_for, tab
        seen |= asked_for
    assert len(seen) == 5, "each tab its own"
    assert events(3) == asked_for
    studio.page.evaluate(_HIDDEN, True)
    settled(0)
    assert events(3) == set()
    studio.page.evaluate(_HIDDEN, False)

    def seen_again() -> bool:
        studio.page.wait_for_timeout(ANSWERED_MS)  # in which the browser tells of its requests
        return {*asked} == asked_for

    wait_until(seen_again)
