"""Starts and stops the chat page in a process of its own, so that the server never imports its libraries."""

from __future__ import annotations

import contextlib
import os
import ssl
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from ptune.child import module_command

from ..http.tls import OnlyThis

ASK_VARIABLE = "PTUNE_PAGE_ASKS_FOR_KEY"
"""Environment variable that makes the page prompt visitors for an API key."""
TRUSTED_VARIABLE = "PTUNE_PAGE_TRUSTS"
"""Environment variable: the file of the only certificate that the page accepts from its server."""


def trusted_servers() -> ssl.SSLContext | bool:
    """Whose certificates the page accepts, as httpx's `verify`; True = those of servers that the system trusts."""
    certificate = os.environ.get(TRUSTED_VARIABLE)
    return True if certificate is None else OnlyThis(Path(certificate))


@contextlib.contextmanager
def chat_page(
    server_url: str, host: str, port: int, *, ask: bool = False, trusted: Path | None = None
) -> Iterator[None]:
    """Runs the page in a subprocess for the duration of the block.

    ask: prompt visitors for an API key. trusted: the certificate of a server that speaks TLS.

    If gradio is not installed, prints a line instead.
    """
    if find_spec("gradio") is None:
        print("No chat page: it needs `pip install 'ptune[ui]'`.", flush=True)
        yield
        return
    command = module_command("ptune_serve.ui.app", server_url, host, str(port))
    environment = os.environ | ({ASK_VARIABLE: "1"} if ask else {})
    if trusted is not None:
        environment |= {TRUSTED_VARIABLE: str(trusted)}
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
