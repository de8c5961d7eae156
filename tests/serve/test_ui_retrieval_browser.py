"""The tabs of what recommends and ranks in a real browser, over a tiny bundle."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from subprocess import PIPE, Popen
from typing import Any

import pytest
from support.browsing import ARGUMENTS, CHROMIUM, FITS, GIVE_UP_MS, NEEDS_BROWSER
from support.fake_chat_model import serving, wait_until
from support.recommendation_runs import NAME, TITLES, bundle

from ptune.tasks.encoder.infer import load
from ptune.tasks.recommendation.infer import RecommendQuery, Title, recommend
from ptune.tasks.retrieval.infer import rerank
from ptune_serve.app import create_encoder_app

pytestmark = NEEDS_BROWSER


@pytest.fixture(scope="module")
def model() -> Iterator[Any]:
    found = load(bundle(), threads=1)
    yield found
    found.close()


@pytest.fixture(scope="module")
def page(model: Any) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with ExitStack() as stack:
        url = stack.enter_context(serving(create_encoder_app(model)))
        command = [sys.executable, "-m", "ptune_serve.ui.app", url, "127.0.0.1", "0"]
        process = Popen(command, stdin=PIPE, stdout=PIPE, text=True)
        stack.callback(process.kill)
        assert process.stdout is not None
        address = process.stdout.readline().removeprefix("Page: ").strip()
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS.split())
        found = browser.new_page(viewport={"width": 1280, "height": 800})
        found.set_default_timeout(GIVE_UP_MS)
        found.goto(address)
        found.get_by_role("tab", name="Recommend", exact=True).wait_for()
        wait_until(lambda: all(one.input_value() for one in found.locator(".picker input:visible").all()))
        yield found
        browser.close()


def shown(page: Any) -> list[str]:
    """What stands in the list, from the top."""
    return page.locator(".labels .places:visible .said").all_inner_texts()


def choose(page: Any, words: str, title: str) -> None:
    """As somebody types words and takes what is offered."""
    page.locator(".history input").click()
    page.keyboard.type(words)
    page.get_by_role("option").filter(has_text=title).click()


def test_tabs_of_what_is_served(page: Any) -> None:
    assert page.get_by_role("tab").all_inner_texts() == ["Recommend", "Rank"]
    assert f"{NAME} (feature extraction)" in page.locator("#heading p").inner_text()


def test_items_are_chosen_by_words_and_what_comes_next_has_reasons(page: Any, model: Any) -> None:
    choose(page, TITLES["i7"][:9].upper(), TITLES["i7"])
    choose(page, TITLES["i2"], TITLES["i2"])
    expected = [one.title for one in recommend(model, RecommendQuery(["i7", "i2"]), NAME)]
    wait_until(lambda: shown(page) == expected)
    first = recommend(model, RecommendQuery(["i7", "i2"]), NAME)[0]
    told = page.locator(".labels .why:visible").first.inner_text()
    assert told.startswith(f"near {first.reasons[0].title} {first.reasons[0].score:.2f}")
    # Enter takes the words themselves, as a title that the catalogue lacks.
    page.locator(".history input").click()
    page.keyboard.type("<b>virtue</b> of nobody")
    page.keyboard.press("Enter")
    question = RecommendQuery(["i7", "i2", Title("<b>virtue</b> of nobody")])
    expected = [one.title for one in recommend(model, question, NAME)]
    wait_until(lambda: shown(page) == expected)
    assert page.locator(".labels .why:visible b").count() > 0
    # Who types all of a title means that item, which is not recommended to itself.
    page.locator(".history input").click()
    page.keyboard.type(TITLES["i4"])
    page.get_by_role("option").filter(has_text=TITLES["i4"]).wait_for()
    page.keyboard.press("Enter")
    question = RecommendQuery(["i7", "i2", Title("<b>virtue</b> of nobody"), "i4"])
    expected = [one.title for one in recommend(model, question, NAME)]
    assert TITLES["i4"] not in expected
    wait_until(lambda: shown(page) == expected)


def test_texts_are_put_in_order(page: Any, model: Any) -> None:
    page.get_by_role("tab", name="Rank", exact=True).click()
    page.get_by_label("Texts, one a line").fill(" ")
    page.get_by_role("button", name="Rank", exact=True).click()
    problem = page.locator(".labels:visible .problem")
    wait_until(lambda: problem.count() and "texts to put in order" in problem.inner_text())
    texts = ["the death of a king", "money and <i>honour</i>", "a dog in church"]
    page.get_by_label("Query").fill("honour of the king")
    page.get_by_label("Texts, one a line").fill("\n".join(texts))
    page.get_by_role("button", name="Rank", exact=True).click()
    scores = rerank(model, "honour of the king", texts, NAME)
    expected = [texts[at] for at in sorted(range(3), key=lambda at: -scores[at])]
    wait_until(lambda: shown(page) == expected)


def test_it_fits_narrow_windows(page: Any) -> None:
    for width in (1280, 480):
        page.set_viewport_size({"width": width, "height": 800})
        for tab in ("Recommend", "Rank"):
            page.get_by_role("tab", name=tab, exact=True).click()
            page.wait_for_function(FITS)
