"""The chat page in a real browser: the page as its own process, the server over the fake model."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from subprocess import PIPE, Popen
from typing import TYPE_CHECKING

from ptune.codecs.reasoning import ReasoningFormat
from ptune_serve.app import create_app
from support.browsing import ARGUMENTS, CHROMIUM, GIVE_UP_MS, watch
from support.byte_codec import SeeingCodec
from support.fake_chat_model import FakeChatModel, FakeEngine, serving, wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

KEPT = "kept for a test"
_FORGET = f"if (!sessionStorage.getItem('{KEPT}')) {{ localStorage.clear(); sessionStorage.clear(); }}"


@dataclass
class Browsed:
    """A browser on the page, and what is behind it."""

    page: Page
    url: str
    engine: FakeEngine
    server: ExitStack  # closing it ends the server
    elsewhere: list[str] = field(default_factory=list)  # requests to anywhere but the page
    blocked: list[str] = field(default_factory=list)  # what the browser says that it did not load or run

    def open(self, tab: str = "Chat") -> None:
        """Loads the page in a browser that has kept nothing."""
        self.page.goto(self.url)
        self.page.get_by_role("tab", name=tab).click()
        self._loaded()

    def open_again(self) -> None:
        """Loads the page in the same tab of the browser, with what that has kept."""
        self.page.evaluate(f"sessionStorage.setItem('{KEPT}', 'yes')")
        self.page.reload()
        self._loaded()
        self.page.evaluate(f"sessionStorage.removeItem('{KEPT}')")

    def _loaded(self) -> None:
        self.page.wait_for_function("document.querySelector('#heading h1')?.innerText === 'dictionary'")

    @property
    def box(self) -> Locator:
        return self.page.locator(".box textarea:visible")

    def send(self, text: str) -> None:
        self.box.fill(text)
        self.box.press("Enter")

    def ask(self, text: str, *answers: str) -> None:
        """Sends a message and waits for the answers' end. answers: of the columns; none = of the newest adapter."""
        self.send(text)
        expected = list(answers) or [f"devil heard: {text}"]
        wait_until(lambda: self.answers() == expected)
        self.ready()

    def ready(self) -> None:
        """Waits until nothing streams in."""
        wait_until(lambda: self.page.locator(".box .submit-button:visible").count())

    def answers(self) -> list[str]:
        """The newest answer of each column that is to be seen."""
        columns = self.page.locator(".block.chatbot:visible").all()
        return [plain(column.get_by_test_id("bot").all_inner_texts() or [""])[-1] for column in columns]

    def questions(self) -> list[str]:
        first = self.page.locator(".block.chatbot:visible").first
        return plain(first.get_by_test_id("user").all_inner_texts())

    def press(self, name: str, nth: int = 0) -> None:
        self.page.get_by_role("button", name=name, exact=True).locator("visible=true").nth(nth).click()

    def edit(self, nth: int, text: str) -> None:
        """Writes another text in place of the nth message that has a pencil."""
        self.press("Edit", nth)
        self.page.locator(".block.chatbot:visible textarea").last.fill(text)
        self.press("Submit")

    def chats(self) -> list[str]:
        """The titles in the list at the side, without their days."""
        return [label.partition(" · ")[0] for label in self.page.locator("#chats label").all_inner_texts()]


def plain(texts: list[str]) -> list[str]:
    """Texts of the page without its invisible characters."""
    return [text.strip().replace("\u2060", "") for text in texts]


@contextmanager
def browsing() -> Iterator[Browsed]:
    """A browser on the page of a server of its own."""
    from playwright.sync_api import sync_playwright

    thinks = SeeingCodec(reasoning=ReasoningFormat("<think>\n", "\n</think>\n\n"))
    codecs = {"base": SeeingCodec(), "devil": SeeingCodec(), "pirate": thinks}
    model = FakeChatModel(FakeEngine(context=4096), codecs)
    with ExitStack() as stack:
        server = ExitStack()
        stack.callback(server.close)
        server_url = server.enter_context(serving(create_app(model)))
        command = [sys.executable, "-m", "ptune_serve.ui.app", server_url, "127.0.0.1", "0"]
        process = Popen(command, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True)
        stack.callback(process.kill)
        assert process.stdout is not None
        url = process.stdout.readline().removeprefix("Chat page: ").strip()
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS.split())
        page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
        page.set_default_timeout(GIVE_UP_MS)
        page.add_init_script(_FORGET)
        browsed = Browsed(page, url, model.engine, server)

        watch(page, url, browsed.elsewhere, browsed.blocked)
        yield browsed
        # Closes its input, as when the server's process has died
        output, problems = process.communicate(timeout=GIVE_UP_MS / 1000)
        assert (process.returncode, output, problems) == (0, "", "")
        browser.close()
