"""A model hub on this machine that takes repositories and commits, as huggingface_hub asks for them."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class FakeHub:
    """What it was told."""

    url: str = ""
    token: str = "hf_right"
    repositories: dict[str, bool] = field(default_factory=dict)  # name -> private
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)  # message, files


def _answering(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    """What answers for a hub, and tells it."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            if self.headers.get("authorization") != f"Bearer {hub.token}":
                self._answer(401, {"error": "Invalid username or password."})
            elif self.path == "/api/repos/create":
                self._create(json.loads(body))
            elif self.path == "/api/validate-yaml":
                self._answer(200, {"errors": [], "warnings": []})
            elif "/preupload/" in self.path:
                files = [
                    {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for one in json.loads(body)["files"]
                ]
                self._answer(200, {"files": files})
            elif "/commit/" in self.path:
                self._commit(body.decode())
            else:
                self._answer(404, {"error": self.path})

        def _create(self, asked: dict[str, Any]) -> None:
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            private = asked.get("private", asked.get("visibility") == "private")
            known = name in hub.repositories
            hub.repositories.setdefault(name, private)
            self._answer(409 if known else 200, {"url": f"{hub.url}/{name}", "name": name, "id": name})

        def _commit(self, body: str) -> None:
            said = [json.loads(line) for line in body.splitlines()]
            message = next(one["value"]["summary"] for one in said if one["key"] == "header")
            files = {
                one["value"]["path"]: base64.b64decode(one["value"]["content"])
                for one in said
                if one["key"] == "file"
            }
            hub.commits.append((message, files))
            address = (
                f"{hub.url}{self.path.removeprefix('/api/models').replace('/commit/main', '')}/commit/abc"
            )
            self._answer(200, {"commitUrl": address, "commitOid": "abc", "pullRequestUrl": None})

        def _answer(self, status: int, body: dict[str, Any]) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    return Handler


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """Answers while the block lasts."""
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _answering(hub))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
