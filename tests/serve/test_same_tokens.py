"""One prompt through four APIs over a real engine: at temperature 0 the same tokens, whole and streamed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from support.tiny_bundle import add_codec, make

import ptune
from ptune_serve.app import create_app

HERMES = Path(__file__).parents[1] / "codecs" / "agents" / "hermes.jinja"
SYSTEM, ASKED, ANSWERED, THEN = "Be brief.", "How warm is it in Oslo?", "Cold.", "And in Rome?"
TURNS = [
    {"role": "user", "content": ASKED},
    {"role": "assistant", "content": ANSWERED},
    {"role": "user", "content": THEN},
]
LED = [{"role": "system", "content": SYSTEM}, *TURNS]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": LED, "max_tokens": 20, "temperature": 0},
    "/v1/messages": {"messages": TURNS, "system": SYSTEM, "max_tokens": 20, "temperature": 0},
    "/v1/responses": {"input": TURNS, "instructions": SYSTEM, "max_output_tokens": 20, "temperature": 0},
    "/api/chat": {"messages": LED, "options": {"temperature": 0, "num_predict": 20}},
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TestClient, list[Any]]]:
    tiny = make(tmp_path_factory.mktemp("served") / "bundle")
    add_codec(tiny.folder, HERMES.read_text(encoding="utf-8"))
    model = ptune.load(tiny.folder, threads=1, max_rows=2, replay_golden=False)
    exchanged: list[Any] = []  # each prompt, and the tokens of its answer
    submit = model.engine.submit

    def recording(request: Any, deliver: Any) -> Any:
        tokens: list[int] = []
        exchanged.append((tuple(request.prompt), tokens))

        def record(token: Any) -> None:
            tokens.append(token.id)
            deliver(token)

        return submit(request, record)

    model.engine.submit = recording
    with TestClient(create_app(model)) as client:
        yield client, exchanged
    model.close()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("adapter", ["base", "wide"])
def test_the_same_tokens(served: tuple[TestClient, list[Any]], adapter: str, stream: bool) -> None:
    client, exchanged = served
    exchanged.clear()
    for path, body in BODIES.items():
        response = client.post(path, json={"model": adapter, "stream": stream, **body})
        assert response.status_code == 200, response.text
    (prompt, tokens), *others = exchanged
    assert len(others) == 3
    assert len(tokens) > 1
    assert all(other == (prompt, tokens) for other in others)
