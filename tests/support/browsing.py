"""A browser for the tests of the pages: where it is, how it is started, and what they need to run at all."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import ConsoleMessage, Page, Request

CHROMIUM = shutil.which("chromium")
ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)

GIVE_UP_MS = 120_000  # on a machine however busy: what comes is not waited for any longer than it takes
FITS = "document.scrollingElement.scrollWidth <= window.innerWidth"  # nothing is cut off at the right

NEEDS_BROWSER = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH: apt-get install chromium"),
    pytest.mark.skipif(find_spec("playwright") is None, reason="needs playwright"),
    pytest.mark.skipif(find_spec("gradio") is None, reason="needs gradio"),
]


def watch(page: Page, own: str, elsewhere: list[str], blocked: list[str]) -> None:
    """Notes what a page asks others for, and what the browser does not load or run for its content security policy.

    own: the beginning of the addresses that are not others'.
    """

    def asked(request: Request) -> None:
        if not request.url.startswith((own, "data:", "blob:")):
            elsewhere.append(request.url)

    def said(message: ConsoleMessage) -> None:
        if "Security Policy" in message.text:
            blocked.append(message.text)

    page.on("request", asked)
    page.on("console", said)
