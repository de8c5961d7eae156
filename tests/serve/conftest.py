"""One server over the fake model for each test file, on a real socket."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import openai
import pytest
from support.fake_chat_model import FakeChatModel, FakeEngine, serving, wait_until

from ptune_serve.app import create_app
from ptune_serve.service import Service, Settings


@dataclass
class Served:
    url: str
    engine: FakeEngine
    service: Service
    http: httpx.Client

    @property
    def prompt(self) -> str:
        """What the newest request asks, as the fake codec spells it."""
        return bytes(self.engine.requests[-1].prompt).decode()

    def chat(self, content: object = "ahoy", /, model: str = "pirate", **fields: object) -> httpx.Response:
        messages = [{"role": "user", "content": content}]
        return self.http.post("/v1/chat/completions", json={"model": model, "messages": messages, **fields})

    def complete(self, prompt: object, /, model: str = "base", **fields: object) -> httpx.Response:
        return self.http.post("/v1/completions", json={"model": model, "prompt": prompt, **fields})


@pytest.fixture(scope="module")
def _one_server() -> Iterator[Served]:
    model = FakeChatModel()
    app = create_app(model, Settings(max_body_bytes=300_000))
    with serving(app) as url, httpx.Client(base_url=url, timeout=20) as http:
        yield Served(url, model.engine, app.state.service, http)


@pytest.fixture
def served(_one_server: Served) -> Served:
    """The server, its fake engine as new: what the test before left running has ended."""
    _one_server.engine.close()
    wait_until(lambda: _one_server.engine.running == 0)
    _one_server.engine.__init__()  # type: ignore[misc]
    _one_server.service.draining = False
    return _one_server


@pytest.fixture
def client(served: Served) -> Iterator[openai.OpenAI]:
    """The `openai` package, unmodified."""
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0, timeout=20) as client:
        yield client
