"""The chat page in a real browser: answers, settings, two models side by side, hostile answers, widths."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial

import pytest
from support.browsing import FITS, NEEDS_BROWSER
from support.chat_page import Browsed, browsing
from support.fake_chat_model import wait_until

pytestmark = NEEDS_BROWSER


def _answers(browsed: Browsed, text: str) -> bool:
    return browsed.answers() == [text]


@pytest.fixture(scope="module")
def browsed() -> Iterator[Browsed]:
    with browsing() as browsed:
        yield browsed


@pytest.fixture(autouse=True)
def _as_new(browsed):
    browsed.engine.__init__(context=4096)


def test_the_head_says_what_is_served(browsed):
    browsed.open()
    assert browsed.page.locator("#heading p").inner_text() == (
        "Served by ptune · base llm_tiny · adapters pirate, devil · context 4,096 tokens"
    )


def test_an_answer_streams_in(browsed):
    browsed.engine.held_at = len("devil hear")
    browsed.open()
    browsed.send("ahoy")
    wait_until(lambda: browsed.answers() == ["devil hear"])
    browsed.engine.held_at = None
    wait_until(lambda: browsed.answers() == ["devil heard: ahoy"])
    measure = browsed.page.locator(".block.measure:visible")
    wait_until(
        lambda: re.fullmatch(
            r"18 tokens · [\d.]+ tokens/s · first token after [\d.]+ s", measure.inner_text()
        )
    )
    assert browsed.questions() == ["ahoy"]
    assert browsed.box.input_value() == ""


def test_the_picker_chooses_who_answers(browsed):
    browsed.open()
    browsed.page.locator(".picker:visible input").click()
    options = browsed.page.get_by_role("option")
    assert [option.inner_text().strip("✓ \n") for option in options.all()] == ["base", "pirate", "devil"]
    options.get_by_text("pirate").click()
    browsed.send("ahoy")
    wait_until(lambda: browsed.answers() == ["pirate heard: ahoy"])


def test_what_is_thought_is_folded_once_the_answer_begins(browsed):
    browsed.engine.script = "<think>\nSix times <b>seven</b>.\n</think>\n\nIt is 42."
    browsed.engine.held_at = len("<think>\nSix times <b>seven")
    browsed.open()
    browsed.page.locator(".picker:visible input").click()
    browsed.page.get_by_role("option").get_by_text("pirate").click()
    browsed.send("ahoy")
    chat = browsed.page.locator(".block.chatbot:visible")
    chat.get_by_text("Thinking …").wait_for()
    chat.get_by_text("Six times").wait_for()  # open while it thinks
    browsed.engine.held_at = None
    chat.get_by_text("It is 42.").wait_for()
    title = chat.get_by_text(re.compile(r"Thought for \d+ s"))
    title.wait_for()
    chat.get_by_text("Six times").wait_for(state="hidden")
    title.click()
    chat.get_by_text("Six times <\u2060b>seven").wait_for()
    assert "<think>" not in chat.inner_text()
    wait_until(lambda: browsed.page.locator(".box .submit-button:visible").count())
    browsed.page.get_by_role("button", name="Edit").locator("visible=true").first.click()
    editor = browsed.page.locator(".block.chatbot:visible textarea")
    editor.fill("again")
    browsed.page.get_by_role("button", name="Submit").locator("visible=true").first.click()
    wait_until(lambda: bytes(browsed.engine.requests[-1].prompt) == b"<user>again")
    wait_until(lambda: browsed.answers() == ["It is 42."])


def test_the_next_message_carries_the_conversation(browsed):
    browsed.open()
    browsed.send("one")
    wait_until(lambda: browsed.answers() == ["devil heard: one"])
    wait_until(lambda: browsed.page.locator(".box .submit-button:visible").count())
    browsed.send("two")
    wait_until(lambda: browsed.answers() == ["devil heard: two"])
    assert bytes(browsed.engine.requests[-1].prompt) == b"<user>one<assistant>devil heard: one<user>two"


def test_settings_reach_the_model(browsed):
    browsed.open()
    browsed.page.get_by_label("System prompt of devil").locator("visible=true").fill(
        "Be brief."
    )  # which stands there once all is
    browsed.page.get_by_label("number input for Temperature").fill("0.3")
    browsed.page.get_by_label("Seed").fill("41")
    browsed.send("ahoy")
    wait_until(lambda: browsed.answers() == ["devil heard: ahoy"])
    request = browsed.engine.requests[-1]
    assert bytes(request.prompt) == b"<system>Be brief.<user>ahoy"
    assert (request.sampling.temperature, request.sampling.seed, request.max_tokens) == (0.3, 41, 256)
    browsed.page.get_by_label("Seed").fill("many")
    browsed.send("again")
    wait_until(
        lambda: "seed must be a whole number" in browsed.page.locator(".block.measure:visible").inner_text()
    )


def test_two_models_side_by_side(browsed):
    browsed.engine.go_on.clear()
    browsed.open("Side by side")
    browsed.send("ahoy")
    wait_until(lambda: browsed.engine.running == 2)
    browsed.engine.go_on.set()
    wait_until(lambda: browsed.answers() == ["base heard: ahoy", "devil heard: ahoy"])
    wait_until(
        lambda: all(
            "tokens/s" in text for text in browsed.page.locator(".block.measure:visible").all_inner_texts()
        )
    )


def test_stop_keeps_what_was_said(browsed):
    browsed.engine.held_at = 20
    browsed.open("Side by side")
    browsed.send("a long story " * 5)
    wait_until(lambda: all(len(answer) > 5 for answer in browsed.answers()))
    browsed.page.locator(".box .stop-button:visible").click()
    wait_until(lambda: len(browsed.engine.cancelled) == 2)
    said = browsed.answers()
    assert all(0 < len(answer) <= 20 for answer in said)
    browsed.engine.held_at = None
    browsed.send("go on")
    wait_until(lambda: browsed.answers() == ["base heard: go on", "devil heard: go on"])
    prompts = {bytes(request.prompt) for request in browsed.engine.requests[-2:]}
    assert all(f"<assistant>{answer}".encode() in b"".join(prompts) for answer in said)


def test_retry_asks_the_same_again(browsed):
    browsed.open()
    browsed.send("ahoy")
    wait_until(lambda: browsed.answers() == ["devil heard: ahoy"])
    wait_until(lambda: browsed.page.locator(".box .submit-button:visible").count())
    browsed.page.get_by_role("button", name="Retry").locator("visible=true").click()
    wait_until(lambda: len(browsed.engine.requests) == 2)
    wait_until(lambda: browsed.answers() == ["devil heard: ahoy"])
    assert browsed.engine.requests[0].prompt == browsed.engine.requests[1].prompt


def test_an_edited_message_is_asked_instead(browsed):
    browsed.open()
    for text in ("<b>one</b>", "two"):
        browsed.send(text)
        wait_until(partial(_answers, browsed, f"devil heard: {text}"))
        wait_until(lambda: browsed.page.locator(".box .submit-button:visible").count())
    browsed.page.get_by_role("button", name="Edit").locator("visible=true").first.click()
    editor = browsed.page.locator(".block.chatbot:visible textarea")
    editor.fill(editor.input_value() + " more")
    browsed.page.get_by_role("button", name="Submit").locator("visible=true").first.click()
    wait_until(lambda: browsed.answers() == ["devil heard: <b>one</b> more"])
    assert browsed.questions() == ["<b>one</b> more"]
    assert bytes(browsed.engine.requests[-1].prompt) == b"<user><b>one</b> more"


def test_examples_and_new_chat(browsed):
    browsed.open()
    chip = browsed.page.get_by_role("button", name="Define: Patience").locator("visible=true")
    chip.click()
    wait_until(lambda: browsed.answers() == ["devil heard: Define: Patience"])
    wait_until(lambda: chip.count() == 0)
    browsed.ready()
    browsed.page.get_by_role("button", name="New chat").locator("visible=true").click()
    wait_until(lambda: browsed.answers() == [""])
    wait_until(lambda: chip.count() == 1)
    browsed.send("ahoy")
    wait_until(lambda: browsed.answers() == ["devil heard: ahoy"])
    assert bytes(browsed.engine.requests[-1].prompt) == b"<user>ahoy"


HOSTILE = """<img src=x onerror="window.hacked=1"> <script>window.hacked=1</script> <b>not bold</b> **bold**
![i](http://elsewhere.invalid/i.png) [link](javascript:window.hacked=1) <iframe src="//elsewhere.invalid"></iframe>
```html
<img src="http://elsewhere.invalid/c.png">
```
`<img src=http://elsewhere.invalid/d.png>` <svg onload="window.hacked=1"></svg> &lt;b&gt;
```mermaid
graph TD; A-->B
```
"""


def test_nothing_that_a_model_says_becomes_html(browsed):
    browsed.open()
    browsed.page.get_by_label("number input for Max tokens").fill("1024")
    browsed.send(HOSTILE)
    wait_until(lambda: "A-->B" in browsed.answers()[0])
    answer = browsed.page.locator(".block.chatbot:visible").get_by_test_id("bot").last
    assert answer.locator("strong").all_inner_texts() == ["bold"]
    for tag in ("img", "script", "b", "iframe", "svg:not(button svg)", ".mermaid", "a[href^=javascript]"):
        assert answer.locator(tag).count() == 0, tag
    assert answer.locator("pre").first.inner_text().strip() == '<img src="http://elsewhere.invalid/c.png">'
    assert browsed.page.evaluate("window.hacked") is None


HOSTILE_FORMULAS = r"""$\frac12$ and $\href{javascript:window.hacked=1}{click}$ $\includegraphics{http://elsewhere.invalid/m.png}$
$\htmlId{heading}{x}$ $<img src=x onerror=window.hacked=1>$ $\text{<script>window.hacked=1</script>}$
$$\rule{90000em}{90000em}$$
$\raisebox{-40em}{\text{covers the page}}$ %%%LATEX_BLOCK_0%%% [x](%%%LATEX_BLOCK_1%%%)

| a | $\sqrt{x}$ |
|---|---|
| <b>1</b> | ![i](http://elsewhere.invalid/t.png) |

$$
```
$$
<img src=http://elsewhere.invalid/f.png>
```
the end"""


def test_formulas_are_drawn_and_do_nothing_else(browsed):
    browsed.open()
    browsed.page.get_by_label("number input for Max tokens").fill("1024")
    browsed.engine.script = HOSTILE_FORMULAS
    browsed.send("ahoy")
    wait_until(lambda: "the end" in browsed.answers()[0])
    answer = browsed.page.locator(".block.chatbot:visible").get_by_test_id("bot").last
    wait_until(
        lambda: answer.locator(".katex .mfrac").count() and answer.locator("td .katex, th .katex").count()
    )
    for tag in ("img", "script", "b", "iframe", "a[href^=javascript]", "[id=heading]"):
        assert answer.locator(tag).count() == 0, tag
    assert browsed.page.evaluate("window.hacked") is None
    browsed.page.wait_for_function(FITS)
    browsed.box.click()  # nothing covers it
    assert answer.locator("pre").inner_text().strip() == "$$\n<img src=http://elsewhere.invalid/f.png>"


@pytest.mark.parametrize("width", [1280, 420])
def test_the_page_fits_the_window(browsed, width, tmp_path):
    browsed.page.set_viewport_size({"width": width, "height": 800})
    for tab in ("Chat", "Side by side"):
        browsed.open(tab)
        browsed.send(
            "Define: Patience, in a long sentence that does not fit into one line of a narrow window"
        )
        wait_until(lambda: all("narrow window" in answer for answer in browsed.answers()))
        browsed.page.screenshot(path=tmp_path / f"{tab} {width}.png")
        browsed.page.wait_for_function(FITS)
    if width == 1280:
        browsed.page.wait_for_function("document.scrollingElement.scrollHeight <= 800")
    browsed.page.set_viewport_size({"width": 1280, "height": 800})


def test_nothing_was_asked_of_another_host(browsed):
    assert browsed.elsewhere == []
    assert browsed.blocked == []


def test_a_server_that_goes_away_is_told_in_words(browsed):
    """Last: it ends the server."""
    browsed.open()
    browsed.server.close()
    browsed.send("ahoy")
    measure = browsed.page.locator(".block.measure:visible")
    wait_until(lambda: "does not answer" in measure.inner_text() and "ptune serve" in measure.inner_text())
    wait_until(lambda: "does not answer" in browsed.page.locator("#heading").inner_text())
    wait_until(lambda: browsed.page.locator(".box .submit-button:visible").count() == 1)
