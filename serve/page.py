"""Starts and ends the chat page, which is a process of its own: the server never imports its libraries."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec

KEY_VARIABLE = "PTUNE_API_KEY"
"""Names the environment variable that hands the page its key: arguments can be read by every user of a machine."""


@contextlib.contextmanager
def chat_page(server_url: str, host: str, port: int, api_key: str | None) -> Iterator[None]:
    """The page runs while the block does. Where gradio is not installed, a line says so and there is no page."""
    if find_spec("gradio") is None:
        print("No chat page: it needs `pip install 'ptune[ui]'`.", flush=True)
        yield
        return
    command = [sys.executable, "-m", "ptune_serve.ui", server_url, host, str(port)]
    environment = os.environ | ({KEY_VARIABLE: api_key} if api_key is not None else {})
    # A session of its own: Ctrl-C reaches the server alone, which ends the page after its last answer. The pipe ends
    # the page where this process could not, because it was killed.
    page = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield
    finally:
        page.terminate()
        try:
            page.wait(timeout=10)
        except subprocess.TimeoutExpired:
            page.kill()
