"""HTTP byte by byte: what no client library would send."""

from __future__ import annotations

import json
import re
import socket
from urllib.parse import urlsplit


def connected(url: str, *, timeout_s: float = 20.0) -> socket.socket:
    """A connection to a server. Reading more than `timeout_s` seconds raises, so that no test can hang."""
    address = urlsplit(url)
    return socket.create_connection((address.hostname, address.port), timeout=timeout_s)


def exchanged(url: str, sent: bytes) -> bytes:
    """All that a server answers to these bytes, until it closes the connection."""
    with connected(url) as client:
        client.sendall(sent)
        return until_closed(client)


def cut_off(url: str, sent: bytes) -> bytes:
    """The same of a client that leaves after these bytes."""
    with connected(url) as client:
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        return until_closed(client)


def until_closed(client: socket.socket) -> bytes:
    """What comes until the server closes the connection."""
    received = bytearray()
    while True:
        try:
            piece = client.recv(65536)
        except ConnectionResetError:
            break
        if not piece:
            break
        received += piece
    return bytes(received)


def statuses(received: bytes) -> list[int]:
    """The status of each response in what was received."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)]


def posted(body: bytes, *headers: str, path: str = "/v1/chat/completions") -> bytes:
    """A request with these headers beside Host and Content-Type, and nothing added."""
    head = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *headers]
    return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body


def posted_json(body: object, path: str = "/v1/chat/completions") -> bytes:
    """A whole request, as a client library sends it."""
    text = json.dumps(body).encode()
    return posted(text, f"Content-Length: {len(text)}", path=path)
