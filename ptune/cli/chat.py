"""ptune chat URL"""

from __future__ import annotations

import importlib

from tyro.conf import Positional

from ptune.cli.parse import parse


def run(arguments: list[str]) -> int:
    return parse(chat, arguments, "chat")


def chat(
    url: Positional[str] = "http://127.0.0.1:8000",
    host: str = "127.0.0.1",
    port: int = 7860,
    api_key: str | None = None,
) -> int:
    """Opens the chat page on a server that is running; speaks to it over HTTP only.

    Args:
        url: The server.
        host: Address of the page.
        port: Port of the page.
        api_key: Key for the server, where it asks for one.
    """
    code: int = importlib.import_module("ptune_serve.ui.app").run(url, host=host, port=port, api_key=api_key)
    return code
