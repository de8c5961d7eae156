"""What leaves the workspace over HTTP: a report that can do nothing, and whole folders; nothing else."""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from ptune.errors import UsageError
from ptune.studio.ship.downloads import Kind, link, own_files, place, routes, zipped
from ptune.studio.workspace import Workspace

WEIGHTS = bytes(range(256)) * 9000  # over two chunks


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = Workspace(tmp_path / "work")
    (tmp_path / "secret.txt").write_text("secret")
    adapter = made.run("mine") / "adapter"
    adapter.mkdir(parents=True)
    (adapter / "adapter_config.json").write_text("{}")
    (adapter / "adapter_model.safetensors").write_bytes(WEIGHTS)
    (adapter / "out").symlink_to(tmp_path / "secret.txt")
    (adapter / "away").symlink_to(tmp_path)
    (made.run("mine") / "report.html").write_text("<script>parent.hacked = 1</script>")
    gguf = made.folder / "gguf" / "mine"
    gguf.mkdir(parents=True)
    (gguf / "gguf.json").write_text("{}")
    (gguf / "base.gguf").write_bytes(b"GGUF")
    return made


@pytest.fixture
def http(workspace: Workspace) -> Iterator[TestClient]:
    app = FastAPI()
    app.include_router(routes(workspace))
    with TestClient(app) as client:
        yield client


def test_a_zip_holds_the_folder_and_nothing_that_links_lead_to(http: TestClient) -> None:
    answer = http.get("/" + link("adapter", "mine"))
    assert answer.headers["content-disposition"] == 'attachment; filename="mine-adapter.zip"'
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        assert sorted(archive.namelist()) == [
            "mine-adapter/adapter_config.json",
            "mine-adapter/adapter_model.safetensors",
        ]
        assert archive.read("mine-adapter/adapter_model.safetensors") == WEIGHTS


def test_a_file_of_an_export(http: TestClient) -> None:
    assert http.get("/" + link("gguf", "mine") + "/base.gguf").content == b"GGUF"
    assert http.get("/" + link("gguf", "mine") + "/other.gguf").status_code == 404


def test_a_report_may_load_and_run_nothing(http: TestClient) -> None:
    answer = http.get("/studio/report/mine")
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"].split("; ")
    assert {"default-src 'none'", "sandbox"} <= {*policy}
    assert not [one for one in policy if "script" in one]


@pytest.mark.parametrize(
    "path",
    [
        "report/none", "report/..", "report/%2e%2e", "report/..%2f..%2fsecret.txt", "download/adapter/none",
        "download/bundle/mine", "download/run/mine", "download/adapter/%2e%2e", "download/gguf/..%2fmine",
        "download/adapter/mine/out", "download/adapter/mine/away%2fsecret.txt", "download/gguf/mine/..%2f..%2fsecret.txt",
        "download/gguf/mine/%2fetc%2fpasswd", "download/adapter/.hidden",
    ],
)  # fmt: skip
def test_nothing_else_goes_out(http: TestClient, path: str) -> None:
    answer = http.get(f"/studio/{path}")
    assert answer.status_code == 404
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text


@given(st.text(max_size=30), st.sampled_from(["adapter", "bundle", "gguf"]))
def test_no_name_leads_out_of_the_workspace(name: str, kind: Kind) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.raises(UsageError):
        place(Workspace(Path(folder)), kind, name)


def test_a_folder_is_never_whole_in_memory(workspace: Workspace) -> None:
    """Its zip comes in pieces of about a chunk."""
    pieces = [len(piece) for piece in zipped(workspace.run("mine") / "adapter", "mine")]
    assert max(pieces) < len(WEIGHTS)
    assert len(own_files(workspace.run("mine") / "adapter")) == 2
