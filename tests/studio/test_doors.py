"""Who may use the studio, and what it sends along."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("gradio")

from fastapi import FastAPI
from starlette.testclient import TestClient

from ptune.cli import main
from ptune.studio.app import create_page
from ptune.studio.workspace import Workspace
from ptune_serve.access.auth import ApiKeys
from ptune_serve.access.keys import Key, plain

KEYS = (
    Key("admin", plain("admins-key").digest, frozenset({"admin"})),
    Key("alice", plain("alices-key").digest, frozenset({"infer"})),
)


def _login(password: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"any:{password}".encode()).decode()}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    workspace = Workspace(tmp_path_factory.mktemp("studio"))
    return create_page(workspace, hosts=frozenset({"127.0.0.1", "localhost"}))


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    return create_page(Workspace(tmp_path_factory.mktemp("studio")), keys=ApiKeys(KEYS))


def test_it_answers_by_this_machines_names_alone(here: FastAPI) -> None:
    with TestClient(here, base_url="http://127.0.0.1:7870") as client:
        assert client.get("/").status_code == 200
        assert client.get("/", headers={"host": "LOCALHOST:1"}).status_code == 200
        refused = client.get("/", headers={"host": "evil.example"})
        assert refused.status_code == 403
        assert "the studio is not called 'evil.example'" in refused.text
        assert (
            client.post("/gradio_api/queue/join", headers={"host": "evil.example"}, json={}).status_code
            == 403
        )


@pytest.mark.parametrize("origin", ["https://evil.example", "http://127.0.0.1:9999", "null"])
def test_another_page_may_neither_read_nor_do_anything(here: FastAPI, origin: str) -> None:
    """Its requests come with the origin of that page."""
    with TestClient(here, base_url="http://127.0.0.1:7870") as client:
        for path in ("/gradio_api/queue/join", "/gradio_api/upload"):
            answer = client.post(path, headers={"origin": origin}, json={})
            assert answer.status_code == 403
            assert answer.text == "the studio answers its own page alone"
        assert client.get("/config", headers={"origin": "http://127.0.0.1:7870"}).status_code == 200


def test_nothing_may_be_loaded_from_elsewhere(here: FastAPI) -> None:
    with TestClient(here, base_url="http://127.0.0.1:7870") as client:
        answer = client.get("/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy


@pytest.mark.parametrize(
    ("headers", "status"),
    [({}, 401), (_login("wrong"), 401), (_login("alices-key"), 401), (_login("admins-key"), 200)],
    ids=["no key", "a wrong key", "a key for inference", "an admin's key"],
)
def test_a_studio_with_keys_asks_for_an_admins(locked: FastAPI, headers: dict[str, str], status: int) -> None:
    with TestClient(locked, base_url="http://studio.example") as client:
        for path in ("/", "/config", "/gradio_api/info"):
            answer = client.get(path, headers=headers)
            assert (answer.status_code == 401) == (status == 401)
        if status == 401:
            assert answer.headers["www-authenticate"].startswith("Basic ")


def test_other_machines_need_a_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["studio", "--folder", str(tmp_path), "--host", "0.0.0.0", "--port", "0"]) == 2
    assert (
        "--host 0.0.0.0 lets other machines run commands here: say --api-key-file too"
        in capsys.readouterr().err
    )


def test_a_file_without_keys_opens_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "keys"
    empty.write_text("")
    assert main(["studio", "--folder", str(tmp_path / "f"), "--api-key-file", str(empty), "--port", "0"]) == 2
    assert str(empty) in capsys.readouterr().err


def test_the_page_itself_has_no_torch() -> None:
    script = "import sys, ptune.studio.app; print(sorted({'torch', 'transformers', 'onnxruntime'} & set(sys.modules)))"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert told.strip() == "[]"
