"""The tab Serve in a real browser: keys are made, limited and taken out, and the server that has them knows at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.browsing import NEEDS_BROWSER
from support.fake_chat_model import wait_until
from support.shipped import running, shipped
from support.studio_page import Opened, browser, opened

pytestmark = [*NEEDS_BROWSER, pytest.mark.slow]
WRITE = "Make or change the key"


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    folder = shipped(tmp_path_factory.mktemp("studio"))
    with browser() as chromium, opened(folder, chromium) as page:
        yield page


def begin(studio: Opened) -> None:
    studio.open("Serve")
    studio.unfold("serve-key-form")
    studio.box("key-file").wait_for()


def made(studio: Opened, name: str) -> str:
    """Makes a key, and reads it off the page."""
    studio.choose("key-name", name)
    studio.press(WRITE)
    studio.says("key-told", f"The key of {name}")
    return studio.page.locator("#key-told code").inner_text()


def test_a_key_is_made_used_limited_and_taken_out(studio: Opened, tmp_path: Path) -> None:
    begin(studio)
    studio.says("key-table", "no such file yet")
    for scope in ("metrics", "admin"):
        studio.page.locator("#key-scopes").get_by_label(scope, exact=True).check()
    studio.box("key-requests_per_minute").fill("50")
    secret = made(studio, "alice")
    file = studio.folder / "keys.toml"
    assert secret not in file.read_text()
    studio.says("key-table", "alice", "admin, infer, metrics", "50")
    line = studio.page.locator("#serve-key-form .command textarea").input_value()
    assert line.startswith("ptune key keys.toml alice --scopes infer metrics admin --adapters all")
    with running(studio.folder / "bundles" / "first", tmp_path, "--api-key-file", str(file)) as url:
        studio.choose("serve-server", url)
        studio.says("serve-state", "asks for an API key")
        studio.box("serve-key").fill(secret)
        studio.box("serve-key").press("Enter")
        studio.says("serve-models", "first@")
        wait_until(lambda: studio.box("ask-model").input_value() == "first")
        studio.box("ask-text").fill("Define: Patience")
        studio.press("Ask")
        studio.says("serve-ask", "of 50 requests a minute are left")
        studio.box("key-requests_per_minute").fill("70")
        studio.press(WRITE)
        studio.says("key-told", "alice: changed")
        studio.says("key-table", "70")

        def limited() -> bool:
            studio.press("Ask")
            studio.page.wait_for_timeout(300)
            return "of 70 requests a minute are left" in studio.text("serve-ask")

        wait_until(limited)
        studio.press("Take it out")
        studio.says("key-told", "last key")
        made(studio, "bob")
        studio.choose("key-name", "alice")
        wait_until(lambda: studio.box("key-requests_per_minute").input_value() == "70")
        studio.press("Take it out")
        studio.says("key-told", "alice is taken out")
        studio.says("serve-state", "asks for an API key")


def test_mistakes_with_keys_are_sentences(studio: Opened) -> None:
    begin(studio)
    studio.choose("key-name", "two words")
    studio.press(WRITE)
    studio.says("key-told", "name")
    assert studio.page.locator("#key-told [role=alert]").count() == 1
    (studio.folder / "plain.txt").write_text("one-key\n")
    studio.box("key-file").fill("plain.txt")
    studio.choose("key-name", "carol")
    studio.press(WRITE)
    studio.says("key-told", "holds no [[keys]]")
    studio.box("key-file").fill("runs")
    studio.press(WRITE)
    studio.says("key-told", "cannot read the API keys")
    assert "Traceback" not in studio.page.content()
