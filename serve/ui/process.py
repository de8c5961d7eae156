"""Starts and stops the chat page in a process of its own, so that the server never imports its libraries."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec

from ptune.child import module_command

ASK_VARIABLE = "PTUNE_PAGE_ASKS_FOR_KEY"
"""Environment variable that makes the page prompt visitors for an API key."""


@contextlib.contextmanager
def chat_page(server_url: str, host: str, port: int, *, ask: bool = False) -> Iterator[None]:
    """Runs the page in a subprocess for the duration of the block. ask: prompt visitors for an API key.

    If gradio is not installed, prints a line instead.
    """
    if find_spec("gradio") is None:
        print("No chat page: it needs `pip install 'ptune[ui]'`.", flush=True)
        yield
        return
    command = module_command("ptune_serve.ui.app", server_url, host, str(port))
    environment = os.environ | ({ASK_VARIABLE: "1"} if ask else {})
    # A session of its own: Ctrl-C reaches only the server, which stops the page after the last answer. If the server is
    # killed, the closed pipe ends the page.
    page = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield
    finally:
        page.terminate()
        try:
            page.wait(timeout=10)
        except subprocess.TimeoutExpired:
            page.kill()
