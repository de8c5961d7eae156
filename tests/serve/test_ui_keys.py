"""Where the server asks for a key, its page does: nothing is shown without, and each visitor asks with their own."""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from os import environ
from subprocess import PIPE, Popen

import httpx
import pytest
from support.browsing import ARGUMENTS, CHROMIUM, GIVE_UP_MS, NEEDS_BROWSER
from support.fake_chat_model import FakeChatModel, FakeEngine, serving

from ptune_serve.access.auth import ApiKeys
from ptune_serve.access.keys import Key, plain
from ptune_serve.app import create_app
from ptune_serve.service import Settings
from ptune_serve.ui.process import ASK_VARIABLE

pytest.importorskip("gradio")

PEOPLE = (
    Key("alice", plain("alices-key").digest, frozenset({"infer"}), frozenset({"pirate"})),
    Key("bob", plain("bobs-kéy").digest, frozenset({"infer"})),
    Key("scraper", plain("scrapers-key").digest, frozenset({"metrics"})),
)


Page = tuple[str, FakeEngine]  # its URL, and what answers


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    model = FakeChatModel()
    with ExitStack() as stack:
        url = stack.enter_context(serving(create_app(model, Settings(api_keys=ApiKeys(PEOPLE)))))
        command = [sys.executable, "-m", "ptune_serve.ui.app", url, "127.0.0.1", "0"]
        environment = {**environ, ASK_VARIABLE: "1"}
        process = Popen(command, stdin=PIPE, stdout=PIPE, text=True, env=environment)
        stack.callback(process.wait)
        stack.callback(process.kill)
        assert process.stdout is not None
        yield process.stdout.readline().removeprefix("Chat page: ").strip(), model.engine


def basic(password: str, name: str = "any") -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


@pytest.mark.parametrize("path", ["/", "/config", "/gradio_api/info", "/gradio_api/queue/join", "/theme.css"])
def test_nothing_is_shown_without_a_key(page: Page, path: str) -> None:
    url, _ = page
    wrong = [
        {},
        basic("guess"),
        basic(""),
        basic("scrapers-key"),
        {"authorization": "Basic !!"},
        {"authorization": "Bearer bobs-key"},
        basic("a\r\nX: 1"),
    ]
    for headers in wrong:
        for method in ("GET", "POST"):
            response = httpx.request(method, url + path, headers=headers)
            assert response.status_code == 401
            assert response.headers["www-authenticate"].startswith("Basic ")


def test_a_key_opens_the_page(page: Page) -> None:
    url, _ = page
    for password in ("alices-key", "bobs-kéy"):
        response = httpx.get(url, headers=basic(password))
        assert response.status_code == 200
        assert "gradio" in response.text


@pytest.mark.browser
@pytest.mark.skipif(any(mark.args[0] for mark in NEEDS_BROWSER[1:]), reason="needs a browser")
@pytest.mark.parametrize(
    ("password", "who", "offered"),
    [("alices-key", "alice", ["pirate"]), ("bobs-kéy", "bob", ["base", "devil", "pirate"])],
)
def test_each_visitor_asks_with_their_own_key(
    page: Page, password: str, who: str, offered: list[str]
) -> None:
    from playwright.sync_api import sync_playwright

    url, engine = page
    engine.requests.clear()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS.split())
        context = browser.new_context(http_credentials={"username": "x", "password": password})
        tab = context.new_page()
        tab.set_default_timeout(GIVE_UP_MS)
        tab.goto(url)
        tab.wait_for_function("document.querySelector('#heading h1')?.innerText === 'dictionary'")
        heading = tab.locator("#heading").inner_text()
        assert ("devil" in heading) == ("devil" in offered)
        tab.locator(".box textarea:visible").fill("ahoy")
        tab.locator(".box textarea:visible").press("Enter")
        tab.wait_for_function("document.body.innerText.includes('heard: ahoy')")
        browser.close()
    assert {request.tenant for request in engine.requests} == {who}
    assert {request.adapter for request in engine.requests} <= set(offered)
