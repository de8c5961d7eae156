"""Starts and ends the chat page, which is a process of its own: the server never imports its libraries."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec

from ptune.child import module_command

ASK_VARIABLE = "PTUNE_PAGE_ASKS_FOR_KEY"
"""Names the environment variable that has the page ask its visitors for a key."""


@contextlib.contextmanager
def chat_page(server_url: str, host: str, port: int, *, ask: bool = False) -> Iterator[None]:
    """The page runs while the block does; `ask`: for a key, as the server does. Where gradio is not installed, a line says so and there is no page."""
    if find_spec("gradio") is None:
        print("No chat page: it needs `pip install 'ptune[ui]'`.", flush=True)
        yield
        return
    command = module_command("ptune_serve.ui", server_url, host, str(port))
    environment = os.environ | ({ASK_VARIABLE: "1"} if ask else {})
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
