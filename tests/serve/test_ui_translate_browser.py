"""The two panes of a translating adapter, in a real browser over a server process with a tiny model."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from subprocess import PIPE, Popen
from typing import TYPE_CHECKING

import httpx
import pytest
from support.browsing import ARGUMENTS, CHROMIUM, GIVE_UP_MS, NEEDS_BROWSER, watch
from support.fake_chat_model import wait_until
from support.translation_runs import NAME, bundle, kit

from ptune.verify.server import serving

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = NEEDS_BROWSER


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving(bundle(), threads=1) as url:
        yield url


@pytest.fixture(scope="module")
def page(server: str) -> Iterator[Page]:
    from playwright.sync_api import sync_playwright

    process = Popen(
        [sys.executable, "-m", "ptune_serve.ui.app", server, "127.0.0.1", "0"],
        stdin=PIPE,
        stdout=PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().partition(": ")[2].strip()
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS.split())
            page = browser.new_page(viewport={"width": 1280, "height": 700})
            page.set_default_timeout(GIVE_UP_MS)
            elsewhere, blocked = list[str](), list[str]()
            watch(page, url, elsewhere, blocked)
            page.goto(url)
            page.get_by_role("tab", name="Translate", exact=True).click()
            wait_until(lambda: NAME in page.locator(".picker input:visible").input_value())
            yield page
            assert elsewhere == []
            assert blocked == []
    finally:
        process.kill()


def panes(page: Page) -> list[str]:
    return [
        page.locator(f"{one} textarea:visible").input_value()
        for one in (".words:not(.translated)", ".translated")
    ]


def test_each_line_has_its_translation_beside_it(page: Page, server: str) -> None:
    texts = [json.loads(line)["en"] for line in (kit() / "test.jsonl").read_text().splitlines()[:2]]
    answer = httpx.post(f"{server}/v1/translate", json={"model": NAME, "text": texts}, timeout=60).json()
    expected = [one["text"].splitlines() for one in answer["data"]]
    page.locator(".words:not(.translated) textarea:visible").fill(f"{texts[0]}\n\n{texts[1]}")
    page.get_by_role("button", name="Translate", exact=True).click()
    wait_until(lambda: panes(page)[1])
    assert panes(page)[1].splitlines() == [*expected[0], "", *expected[1]]
    wait_until(lambda: " s" in page.locator(".prose.measure:visible").inner_text())


def test_the_picker_names_the_languages(page: Page) -> None:
    assert page.locator(".picker input:visible").input_value() == f"{NAME}: en → es"


def test_the_settings_of_chat_are_out_of_the_way(page: Page) -> None:
    wait_until(lambda: page.locator("#settings:visible").count() == 0)
    page.get_by_role("tab", name="Chat", exact=True).click()
    wait_until(lambda: page.locator("#settings:visible").count() == 1)
    page.get_by_role("tab", name="Translate", exact=True).click()


def test_a_refusal_is_told_and_nothing_is_lost(page: Page) -> None:
    before = panes(page)[1]
    page.locator(".words:not(.translated) textarea:visible").fill("word " * 600)
    page.get_by_role("button", name="Translate", exact=True).click()
    wait_until(lambda: "over the context of" in page.locator(".prose.measure:visible").inner_text())
    assert panes(page)[1] == before
    page.locator(".words:not(.translated) textarea:visible").fill("   ")
    page.get_by_role("button", name="Translate", exact=True).click()
    wait_until(lambda: "Write a text" in page.locator(".prose.measure:visible").inner_text())
