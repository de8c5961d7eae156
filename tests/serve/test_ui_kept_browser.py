"""The chat page in a real browser: what the browser keeps, branches, training rows, images, tools, probabilities."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from PIL import Image
from support.browsing import NEEDS_BROWSER
from support.byte_codec import FakeTower
from support.chat_page import KEPT, Browsed, browsing
from support.fake_chat_model import wait_until

from ptune.data.shapes.conversations import openai_conversation

pytestmark = NEEDS_BROWSER


@pytest.fixture(scope="module")
def _one_browser() -> Iterator[Browsed]:
    with browsing() as browsed:
        yield browsed
        assert browsed.elsewhere == []
        assert browsed.blocked == []


@pytest.fixture
def browsed(_one_browser: Browsed) -> Browsed:
    _one_browser.engine.__init__(context=4096)  # type: ignore[misc]
    return _one_browser


def prompt(browsed: Browsed) -> str:
    return bytes(browsed.engine.requests[-1].prompt).decode()


def answered(browsed: Browsed, text: str) -> bool:
    return browsed.answers() == [text]


def choose(browsed: Browsed, model: str) -> None:
    browsed.page.locator(".picker:visible input").click()
    browsed.page.get_by_role("option").get_by_text(model).click()


def test_conversations_are_listed_found_opened_renamed_and_deleted(browsed: Browsed) -> None:
    browsed.open()
    browsed.ask("ahoy")
    browsed.press("New chat")
    browsed.ask("the <b>sea</b>")
    wait_until(lambda: browsed.chats() == ["the <b>sea</b>", "ahoy"])
    browsed.open_again()
    wait_until(lambda: browsed.answers() == ["devil heard: the <b>sea</b>"])
    assert (browsed.questions(), len(browsed.engine.requests)) == (["the <b>sea</b>"], 2)
    search = browsed.page.get_by_label("Search conversations")
    search.fill("heard AHOY")
    wait_until(lambda: browsed.chats() == ["ahoy"])
    search.fill("")
    wait_until(lambda: len(browsed.chats()) == 2)
    browsed.page.locator("#chats label").get_by_text("ahoy").click()
    wait_until(lambda: browsed.answers() == ["devil heard: ahoy"])
    browsed.ask("more")
    assert prompt(browsed) == "<user>ahoy<assistant>devil heard: ahoy<user>more"
    title = browsed.page.get_by_label("Title")
    title.fill("My talk")
    title.press("Enter")
    wait_until(lambda: browsed.chats()[0] == "My talk")
    browsed.ask("again")  # what is kept from now on has the title, too
    browsed.open_again()
    wait_until(lambda: browsed.chats() == ["My talk", "the <b>sea</b>"])
    browsed.page.once("dialog", lambda dialog: dialog.accept())
    browsed.press("Delete")
    wait_until(lambda: browsed.chats() == ["the <b>sea</b>"] and browsed.questions() == [])
    assert (
        browsed.page.evaluate("Object.keys(localStorage).filter(key => key.startsWith('ptune/chat/')).length")
        == 1
    )


def test_what_was_stopped_is_kept_and_two_windows_lose_nothing(browsed: Browsed) -> None:
    browsed.open("Side by side")
    browsed.engine.held_at = 20
    browsed.send("a long story " * 5)
    wait_until(lambda: all(len(answer) > 5 for answer in browsed.answers()))
    browsed.page.locator(".box .stop-button:visible").click()
    wait_until(lambda: len(browsed.engine.cancelled) == 2)
    browsed.ready()
    said = browsed.answers()
    browsed.engine.held_at = None
    other = browsed.page.context.new_page()
    other.goto(browsed.url)
    other.locator("#chats label").get_by_text("a long story").wait_for()
    other.locator(".box textarea:visible").fill("elsewhere")
    other.locator(".box textarea:visible").press("Enter")
    other.locator("#chats label").get_by_text("elsewhere").wait_for()
    other.close()
    browsed.open_again()  # in the tab that it belongs to
    wait_until(lambda: len(browsed.answers()) == 2 and all(browsed.answers()))
    assert all(shown.startswith(kept) for shown, kept in zip(said, browsed.answers(), strict=True))
    assert browsed.chats()[0] == "elsewhere"
    assert len(browsed.chats()) == 2


def test_edited_and_repeated_questions_are_branches(browsed: Browsed) -> None:
    browsed.open()
    for text in ("one", "two"):
        browsed.ask(text)
    browsed.edit(0, "uno")
    wait_until(lambda: browsed.answers() == ["devil heard: uno"])
    browsed.ready()
    assert (browsed.questions(), prompt(browsed)) == (["uno"], "<user>uno")
    choose(browsed, "pirate")
    browsed.press("Retry")
    wait_until(lambda: browsed.answers() == ["pirate heard: uno"])
    browsed.ready()
    browsed.page.get_by_text("Branch 3 of 3").wait_for()
    browsed.open_again()
    browsed.page.get_by_text("Branch 3 of 3").wait_for()
    for answer in ("devil heard: uno", "devil heard: two"):
        browsed.press("‹ Previous")
        wait_until(partial(answered, browsed, answer))
    assert browsed.questions() == ["one", "two"]
    browsed.ask("three")
    assert (
        prompt(browsed)
        == "<user>one<assistant>devil heard: one<user>two<assistant>devil heard: two<user>three"
    )


def test_thumbs_and_corrections_become_training_rows(browsed: Browsed) -> None:
    browsed.open()
    browsed.ask("one")
    browsed.ask("two")
    browsed.press("Download training rows")
    browsed.page.get_by_text("There is no such answer yet").wait_for()
    browsed.edit(1, "One, **corrected** <b> $x$")
    wait_until(lambda: "corrected" in browsed.page.get_by_test_id("bot").first.inner_text())
    browsed.press("Like", 1)
    browsed.page.get_by_role("button", name="Liked").wait_for()
    browsed.page.get_by_role("checkbox", name="Only answers").uncheck()
    browsed.page.get_by_role("checkbox", name="Only answers").check()
    with browsed.page.expect_download() as download:
        browsed.press("Download training rows")
    assert download.value.suggested_filename == "chats.jsonl"
    [line] = Path(download.value.path()).read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["messages"] == [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "One, **corrected** <b> $x$"},
        {"role": "user", "content": "two"},
        {"role": "assistant", "content": "devil heard: two"},
    ]
    assert openai_conversation(json.loads(line))
    browsed.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    browsed.press("Copy message", 1)
    copied = "navigator.clipboard.readText()"
    wait_until(lambda: browsed.page.evaluate(copied) == "One, **corrected** <b> $x$")
    browsed.ask("three")
    assert "<assistant>One, **corrected** <b> $x$<user>two" in prompt(browsed)
    browsed.open_again()
    browsed.page.get_by_role("button", name="Liked").wait_for()


def test_each_model_has_its_own_system_prompt(browsed: Browsed) -> None:
    browsed.open()
    box = browsed.page.get_by_label("System prompt of devil").locator("visible=true")
    box.fill("Be evil.")
    choose(browsed, "pirate")
    other = browsed.page.get_by_label("System prompt of pirate").locator("visible=true")
    assert other.input_value() == ""
    browsed.open_again()
    wait_until(
        lambda: (
            browsed.page.get_by_label("System prompt of devil").locator("visible=true").input_value()
            == "Be evil."
        )
    )
    browsed.ask("ahoy")
    assert prompt(browsed) == "<system>Be evil.<user>ahoy"
    browsed.page.get_by_role("tab", name="Side by side").click()
    wait_until(
        lambda: (
            browsed.page.get_by_label("System prompt of devil").locator("visible=true").input_value()
            == "Be evil."
        )
    )
    browsed.page.get_by_label("System prompt of base").locator("visible=true").fill("Be good.")
    browsed.ask("two", "base heard: two", "devil heard: two")
    prompts = {bytes(request.prompt).decode() for request in browsed.engine.requests[-2:]}
    assert prompts == {"<system>Be good.<user>two", "<system>Be evil.<user>two"}


def test_images_are_sent_where_the_model_sees_them(browsed: Browsed, tmp_path: Path) -> None:
    browsed.open()
    files = browsed.page.locator(".box:visible input[type=file]")
    assert files.count() == 0
    browsed.engine.tower = tower = FakeTower()
    browsed.engine.bundle.manifest.vision = {"vision/features.onnx": "sha256:" + "0" * 64}
    Image.new("RGB", (30, 20), "teal").save(tmp_path / "teal.png")
    browsed.open()
    files.set_input_files(tmp_path / "teal.png")
    browsed.page.locator(".box:visible .thumbnail-item img").wait_for()
    browsed.ask("what?", "devil heard: <image 0>what?")
    assert tower.seen == [(30, 20, (0, 128, 128))]
    browsed.open_again()
    shown = browsed.page.get_by_test_id("user").locator("img.asked")
    shown.wait_for()
    assert shown.evaluate("image => image.naturalWidth") == 30
    browsed.edit(0, "which?")
    wait_until(lambda: browsed.answers() == ["devil heard: <image 1>which?"])
    assert tower.seen == [(30, 20, (0, 128, 128))] * 2
    (tmp_path / "not.png").write_bytes(b"hello")
    browsed.ready()
    files.set_input_files(tmp_path / "not.png")
    browsed.page.locator(".box:visible .thumbnail-item").wait_for()
    browsed.send("what?")
    browsed.page.locator(".block.measure:visible").get_by_text("not.png is not an image").wait_for()


def test_calls_are_shown_and_probabilities_on_demand(browsed: Browsed) -> None:
    browsed.engine.scripts["weather?"] = (
        '<tool_call>\n{"name": "weather", "arguments": {"city": "<b>"}}\n</tool_call>'
    )
    browsed.open()
    browsed.page.get_by_role("button", name="More").click()
    browsed.page.get_by_label("Tools").fill("weather")
    browsed.send("weather?")
    browsed.page.get_by_text("The tools must be a JSON list").wait_for()
    browsed.page.get_by_label("Tools").fill('{"name": "weather", "parameters": {"type": "object"}}')
    browsed.press("Retry")
    browsed.page.get_by_text("Calls weather").click()
    browsed.page.get_by_test_id("bot").get_by_text('"city": "<b>"').wait_for()
    browsed.page.get_by_text("your next message is what the function returns").wait_for()
    browsed.ready()
    browsed.page.get_by_label("Token probabilities").check()
    browsed.send("sunny")
    tokens = browsed.page.locator(".chances:visible .token")
    tokens.first.wait_for()
    assert "<calls weather><tool>sunny" in prompt(browsed)
    tokens.first.focus()
    browsed.page.keyboard.press("ArrowRight")
    assert tokens.nth(1).evaluate("token => token === document.activeElement")
    assert tokens.first.get_attribute("data-told").split("\n")[0] == "d  60.7% (-0.500)"  # type: ignore[union-attr]
    tokens.nth(2).hover()
    told = browsed.page.evaluate(
        "getComputedStyle(document.querySelectorAll('.chances .token')[2], '::after').content"
    )
    assert "60.7%" in told


def test_what_else_lies_in_the_browser_does_no_harm_and_room_is_made(browsed: Browsed) -> None:
    browsed.open()
    turn = {"after": None, "question": "x" * 90_000, "answers": [None]}
    for number in range(44):
        chat = {
            "id": f"{number:032x}",
            "title": f"old {number}",
            "changed_s": number,
            "turns": [turn],
            "at": 0,
        }
        browsed.page.evaluate(
            "chat => localStorage.setItem('ptune/chat/' + chat.id, JSON.stringify(chat))", chat
        )
    bad = {
        "id": "a" * 32,
        "title": "<img src=x onerror=window.hacked=1>",
        "changed_s": 99,
        "turns": [],
        "at": 7,
    }
    for key, value in (("b", "{"), ("c", "null"), ("a" * 32, json.dumps(bad))):
        browsed.page.evaluate(
            "([key, value]) => localStorage.setItem('ptune/chat/' + key, value)", [key, value]
        )
    browsed.page.evaluate(
        f"sessionStorage.setItem('{KEPT}', 'yes'); sessionStorage.setItem('ptune/open', 'b')"
    )
    browsed.open_again()
    wait_until(lambda: browsed.chats()[:1] == ["<img src=x onerror=window.hacked=1>"])
    browsed.page.locator("#chats label").first.click()
    browsed.page.get_by_text("This conversation cannot be read.").wait_for()
    assert browsed.page.evaluate("window.hacked") is None
    browsed.ask("y" * 100, "devil heard: " + "y" * 100)
    wait_until(lambda: browsed.chats()[0].startswith("yyy"))
    browsed.send("z" * 60_000)  # more than the model takes, and more than there is room for
    browsed.page.locator(".block.measure:visible .problem").wait_for()
    wait_until(lambda: browsed.chats()[0].startswith("yyy") and "old 0" not in browsed.chats())
    used = "Object.keys(localStorage).reduce((sum, key) => sum + localStorage.getItem(key).length, 0)"
    assert 3_900_000 < browsed.page.evaluate(used) <= 4_000_000
    assert "old 43" in browsed.chats()
