"""A browser for the tests of the pages: where it is, how it is started, and what they need to run at all."""

from __future__ import annotations

import shutil
from importlib.util import find_spec

import pytest

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
