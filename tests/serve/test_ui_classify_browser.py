"""The encoder's page in a real browser, over the fake encoder: bars, entities, images, side by side, refusals."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from subprocess import PIPE, Popen
from typing import TYPE_CHECKING

import pytest
from PIL import Image
from support.browsing import ARGUMENTS, CHROMIUM, FITS, GIVE_UP_MS, NEEDS_BROWSER, watch
from support.fake_chat_model import FakeChatModel, serving, wait_until
from support.fake_encoder_model import IMAGES, TEXTS, FakeEncoderModel

from ptune_serve.app import create_app, create_encoder_app

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = NEEDS_BROWSER


@dataclass
class Browsed:
    page: Page
    url: str
    model: FakeEncoderModel
    server: ExitStack  # closing it ends the server
    elsewhere: list[str] = field(default_factory=list)  # requests to anywhere but the page
    blocked: list[str] = field(default_factory=list)  # what the browser did not load or run

    def open(self, tab: str, query: str = "") -> None:
        self.page.goto(self.url + query)
        self.page.get_by_role("tab", name=tab, exact=True).click()
        self.page.wait_for_function("document.querySelector('#heading h1')?.innerText === 'many'")
        wait_until(lambda: all(picker.input_value() for picker in self.shown(".picker input")))

    def shown(self, selector: str) -> list[Locator]:
        return self.page.locator(f"{selector}:visible").all()

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).locator("visible=true").click()

    def write(self, text: str) -> None:
        self.page.locator(".words textarea:visible").fill(text)

    def bars(self) -> list[list[str]]:
        """The labels of each column, likeliest first."""
        # All at once: what is shown may be replaced between two questions.
        columns = self.page.locator(".labels .result:visible")
        return columns.evaluate_all(
            "columns => columns.map(one => [...one.querySelectorAll('.bar .label')].map(label => label.innerText))"
        )

    def tabs(self) -> list[str]:
        return self.page.get_by_role("tab").all_inner_texts()


def _shows(browsed: Browsed, labels: list[str]) -> bool:
    return browsed.bars() == [labels]


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS.split())


@contextmanager
def browsing(browser, records) -> Iterator[Browsed]:
    model = FakeEncoderModel(records)
    with ExitStack() as stack:
        server = ExitStack()
        stack.callback(server.close)
        server_url = server.enter_context(serving(create_encoder_app(model)))
        command = [sys.executable, "-m", "ptune_serve.ui.app", server_url, "127.0.0.1", "0"]
        process = Popen(command, stdin=PIPE, stdout=PIPE, text=True)
        stack.callback(process.kill)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("Page: ")
        page = browser.new_page(viewport={"width": 1280, "height": 700})
        page.set_default_timeout(GIVE_UP_MS)
        browsed = Browsed(page, line.removeprefix("Page: ").strip(), model, server)
        watch(page, browsed.url, browsed.elsewhere, browsed.blocked)
        yield browsed
        assert browsed.elsewhere == []
        assert browsed.blocked == []
        page.close()


@pytest.fixture(scope="module")
def texts(browser):
    with browsing(browser, TEXTS) as browsed:
        yield browsed


@pytest.fixture(scope="module")
def images(browser):
    with browsing(browser, IMAGES) as browsed:
        yield browsed


def test_only_tabs_that_something_is_served_for(texts, images):
    texts.open("Text")
    assert texts.tabs() == ["Text", "Entities", "Compare"]
    images.open("Image")
    assert images.tabs() == ["Image", "Compare images"]
    assert images.page.locator("#settings:visible").count() == 0
    head = texts.page.locator("#heading p").inner_text()
    assert head.startswith("Served by ptune · encoder tiny_encoder · sentiment (text classification), ")


def test_a_text_gets_bars(texts):
    texts.open("Text")
    texts.write("an awful, dull day")
    texts.press("Classify")
    wait_until(lambda: texts.bars() == [["negative", "neutral", "positive"]])
    [chosen] = texts.shown(".labels .bar.chosen")
    assert "negative" in chosen.inner_text()
    widths = [bar.bounding_box()["width"] for bar in texts.shown(".labels .track i")]
    assert widths == sorted(widths, reverse=True)


def test_the_picker_asks_another(texts):
    texts.open("Text")
    texts.write("a hill by the sea")
    for name, labels in (("topics", ["sea", "land"]), ("stars", [])):
        texts.page.locator(".picker:visible input").click()
        texts.page.get_by_role("option").get_by_text(name).click()
        wait_until(partial(_shows, texts, labels))
    assert "3.000" in texts.page.locator(".number-row:visible").inner_text()


def test_entities_are_marked(texts):
    texts.open("Entities")
    texts.write('<b>then</b> Ada went to Rome & <img src=x onerror="window.hacked=1">')
    texts.press("Find entities")
    wait_until(lambda: len(texts.shown("mark")) == 2)
    assert texts.page.locator("mark:visible").all_inner_texts() == ["AdaPER", "RomeLOC"]
    assert texts.page.locator(".marked").inner_text().startswith("<b>then</b> ")
    assert texts.page.locator(".marked img").count() == 0
    assert texts.page.evaluate("window.hacked") is None
    texts.write("nothing here")
    texts.press("Find entities")
    wait_until(lambda: "No entity was found" in texts.page.locator(".block.labels:visible").inner_text())


def test_two_adapters_side_by_side(texts):
    texts.open("Compare")
    texts.write("wonderful sea")
    texts.press("Classify")
    wait_until(lambda: texts.bars() == [["positive", "neutral", "negative"], ["sea", "land"]])


def test_an_image_gets_bars(images):
    images.open("Image")
    out = io.BytesIO()
    Image.new("RGB", (32, 32), (10, 20, 240)).save(out, "PNG")
    images.page.locator("input[type=file]").first.set_input_files(
        {"name": "blue.png", "mimeType": "image/png", "buffer": out.getvalue()}
    )
    wait_until(lambda: images.bars() == [["blue", "green", "red"]])
    images.open("Compare images")
    images.press("Boot")
    wait_until(lambda: [column[0] for column in images.bars()] == ["red", "dark"])


def test_what_is_missing_or_refused_is_told_in_words(texts):
    texts.open("Text")
    texts.write("   ")
    texts.press("Classify")
    problem = texts.page.locator(".labels:visible .problem")
    wait_until(lambda: problem.count() and "Write a text" in problem.inner_text())
    texts.model.engine.max_waiting = 0
    texts.write("good")
    texts.press("Classify")
    wait_until(lambda: problem.count() and "too many are waiting" in problem.inner_text())
    texts.model.engine.max_waiting = 1000


@pytest.mark.parametrize("query", ["", "?__theme=dark"])
def test_the_page_fits_the_window(texts, images, query):
    for browsed, tabs in ((texts, ("Text", "Entities", "Compare")), (images, ("Image", "Compare images"))):
        for width in (1280, 420):
            browsed.page.set_viewport_size({"width": width, "height": 700})
            for tab in tabs:
                browsed.open(tab, query)
                browsed.page.wait_for_function(FITS)
        browsed.page.set_viewport_size({"width": 1280, "height": 700})


def test_a_server_that_goes_away_is_told_in_words(browser):
    with browsing(browser, IMAGES) as browsed:
        browsed.open("Image")
        browsed.server.close()
        wait_until(lambda: "does not answer" in browsed.page.locator("#heading").inner_text())
        browsed.press("Shirt")
        problem = browsed.page.locator(".labels:visible .problem")
        wait_until(lambda: problem.count() and "ptune serve" in problem.inner_text())


def test_a_chat_server_has_no_tabs_for_labels(browser):
    with ExitStack() as stack:
        url = stack.enter_context(serving(create_app(FakeChatModel())))
        process = Popen(
            [sys.executable, "-m", "ptune_serve.ui.app", url, "127.0.0.1", "0"],
            stdin=PIPE,
            stdout=PIPE,
            text=True,
        )
        stack.callback(process.kill)
        assert process.stdout is not None
        page = browser.new_page()
        page.goto(process.stdout.readline().removeprefix("Chat page: ").strip())
        page.get_by_role("tab", name="Chat").click()
        assert page.get_by_role("tab").all_inner_texts() == ["Chat", "Side by side"]
