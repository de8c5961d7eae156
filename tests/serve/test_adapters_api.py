"""Adapters that come and go over HTTP, over a real engine: each answers as transformers and peft do."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from peft import PeftModel
from safetensors.numpy import load_file, save_file
from support.http_client import Response
from support.living_adapters import Living, completed, living, token_ids, upload
from support.other_adapters import EXACT, WITH_BASE, save_adapter

import ptune
from ptune.formats.bundle import Bundle
from ptune_serve.access.auth import ApiKeys
from ptune_serve.app import create_app
from ptune_serve.service import Settings

LIMIT = 200_000


@dataclass
class Server:
    there: Living
    http: TestClient
    root: Path

    def names(self) -> list[str]:
        return [card["name"] for card in self.http.get("/v1/adapters").json()["data"]]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    there = living(tmp_path_factory.mktemp("living"))
    there.adapter("first", seed=11)
    there.adapter("other", seed=12, r=3)
    model = ptune.load(there.folder, threads=1, max_rows=6)
    settings = Settings(
        adapters_api=True, adapter_root=there.outside, max_adapter_bytes=LIMIT, max_adapters=5
    )
    with TestClient(create_app(model, settings)) as http:
        yield Server(there, http, there.outside)
    model.close()


@pytest.fixture
def server(started: Server) -> Iterator[Server]:
    yield started
    for alias in [one["alias"] for one in started.http.get("/v1/aliases").json()["data"]]:
        started.http.delete(f"/v1/aliases/{alias}")
    for name in started.names():
        if name not in ("wide", "narrow"):
            assert started.http.delete(f"/v1/adapters/{name}").status_code == 200


def refusal(response: Response, status: int = 400) -> dict[str, Any]:
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert "/tmp" not in error["message"], "a path of the server"
    return error


def test_an_uploaded_adapter_answers_as_peft_does(server: Server) -> None:
    card = upload(server.http, server.there.folders["first"], "first")
    assert card.status_code == 200, card.text
    said = card.json()
    digest = Bundle.open(server.there.folder).manifest.adapters["first"]
    assert said["hash"] == digest
    assert (said["rank"], said["parity"], said["base"], said["loaded"]) == (
        2,
        "unmeasured",
        "unverified base",
        True,
    )
    assert said["bytes"] > (server.there.folders["first"] / "adapter_model.safetensors").stat().st_size
    assert len(said["added"]) == 10
    answer = completed(server.http, "first")
    assert token_ids(answer) == server.there.greedy("first") != server.there.greedy("base")
    assert answer.headers["x-ptune-adapter"] == f"first@{digest[:12]}"
    listed = server.http.get("/v1/adapters").json()["data"]
    assert [one["name"] for one in listed] == ["wide", "narrow", "first"]
    assert listed[0]["base"] == "verified"
    assert [one["id"] for one in server.http.get("/v1/models").json()["data"]] == [
        "base",
        "wide",
        "narrow",
        "first",
    ]
    metrics = server.http.get("/metrics").text
    assert "ptune_adapters_in_memory 3.0" in metrics
    assert "ptune_adapter_loads_total" in metrics


def other_type(server: Server, kind: str, **more: Any) -> Path:
    """A PEFT folder of another type than LoRA; what answers as it does is `kind` among the models."""
    models, folder = server.there.tiny.models, server.root / kind
    options = {**EXACT, **WITH_BASE}[kind] | {"target_modules": ["q_proj", "down_proj"]} | more
    save_adapter(kind, options, copy.deepcopy(models["base"]), folder)
    models[kind] = PeftModel.from_pretrained(copy.deepcopy(models["base"]), folder).merge_and_unload().eval()
    return folder


def test_another_peft_type_answers_as_peft_does(server: Server) -> None:
    card = upload(server.http, other_type(server, "delora"), "delora")
    assert card.status_code == 200, card.text
    assert (card.json()["rank"], card.json()["folded_from"]) == (3, "DELORA")
    answer = completed(server.http, "delora")
    assert token_ids(answer) == server.there.greedy("delora") != server.there.greedy("base")
    listed = server.http.get("/v1/adapters").json()["data"]
    assert [one["folded_from"] for one in listed] == [None, None, "DELORA"]


def test_of_another_peft_type_nothing_grows_beyond_the_limit_or_needs_the_base(server: Server) -> None:
    """VeRA's projections are in its file once, and in its pairs once a layer."""
    folder = other_type(server, "vera", r=40, target_modules="all-linear")
    assert (folder / "adapter_model.safetensors").stat().st_size < LIMIT / 2
    error = refusal(upload(server.http, folder, "vera"))
    assert f"its LoRA pairs take more than {LIMIT} bytes" in error["message"]
    error = refusal(upload(server.http, other_type(server, "hra"), "hra"))
    assert "add it with `ptune add`" in error["message"]
    assert server.names() == ["wide", "narrow"]


def test_a_pattern_of_another_peft_type_may_take_30_s_at_most(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ptune_serve.adapters.trial.LIMIT_S", 3)
    folder = other_type(server, "loha")
    config = json.loads((folder / "adapter_config.json").read_text())
    endless = {**config, "alpha_pattern": {"(.*.*.*.*.*.*.*.*.*)*x": 3}}
    (folder / "adapter_config.json").write_text(json.dumps(endless))
    assert "patterns took more than 3 s" in refusal(upload(server.http, folder, "loha"))["message"]


def test_one_that_is_deleted_is_gone_and_may_come_again_as_another(server: Server) -> None:
    upload(server.http, server.there.folders["first"], "guest")
    assert server.http.delete("/v1/adapters/guest").json() == {
        "object": "adapter",
        "name": "guest",
        "deleted": True,
    }
    assert refusal(completed(server.http, "guest"), 404)["code"] == "model_not_found"
    assert refusal(server.http.delete("/v1/adapters/guest"), 404)["code"] == "model_not_found"
    assert not (server.there.folder / "adapters" / "guest").exists()
    assert upload(server.http, server.there.folders["other"], "guest").status_code == 200
    assert token_ids(completed(server.http, "guest")) == server.there.greedy("other")


def test_a_folder_below_the_root(server: Server) -> None:
    (server.root / "README.md").write_text("not an adapter's file")
    added = server.http.post("/v1/adapters", json={"name": "first", "path": "first"})
    assert added.json()["name"] == "first", added.text
    absolute = str(server.root / "other")
    assert server.http.post("/v1/adapters", json={"name": "other", "path": absolute}).status_code == 200
    assert token_ids(completed(server.http, "other")) == server.there.greedy("other")


def test_vllms_routes(server: Server) -> None:
    body = {"lora_name": "sql", "lora_path": str(server.root / "first"), "load_inplace": False}
    loaded = server.http.post("/v1/load_lora_adapter", json=body)
    assert loaded.text == "Success: LoRA adapter 'sql' added successfully."
    assert token_ids(completed(server.http, "sql")) == server.there.greedy("first")
    assert refusal(server.http.post("/v1/load_lora_adapter", json=body), 409)["code"] == "name_taken"
    gone = server.http.post("/v1/unload_lora_adapter", json={"lora_name": "sql"})
    assert gone.text == "Success: LoRA adapter 'sql' removed successfully."
    assert (server.root / "first" / "adapter_model.safetensors").is_file(), "only the bundle's copy goes"
    assert refusal(server.http.post("/v1/unload_lora_adapter", json={"lora_name": "sql"}), 404)


@pytest.mark.parametrize(
    "path", ["..", ".", "", "../bundle/adapters/wide", "/etc", "gone", "a\0b", "link", "leak", "loop"]
)
def test_no_path_leads_out_of_the_root(server: Server, path: str) -> None:
    links = {"link": server.there.folder / "adapters" / "wide", "loop": server.root / "loop"}
    for name, target in links.items():
        if not (server.root / name).is_symlink():
            (server.root / name).symlink_to(target)
    leak = server.root / "leak"
    if not leak.exists():
        shutil.copytree(server.root / "first", leak)
        (leak / "chat_template.jinja").symlink_to("/etc/passwd")
    error = refusal(server.http.post("/v1/adapters", json={"name": "thief", "path": path}), 403)
    assert error == {
        "message": "path must name a folder below this server's --adapter-root", "type": "invalid_request_error",
        "param": "path", "code": "forbidden_path",
    }  # fmt: skip
    assert "thief" not in server.names()


@pytest.mark.parametrize(
    "name",
    [
        "base",
        "",
        ".hidden",
        "../up",
        "a/b",
        "a\\b",
        "x" * 97,
        "tab\t",
        "nul\0",
        "Ä",
        "-dash",
        "a b",
        "..",
        "a\n",
    ],
)
def test_names_that_cannot_be(server: Server, name: str) -> None:
    for response in (
        upload(server.http, server.there.folders["first"], name),
        server.http.post("/v1/adapters", json={"name": name, "path": "first"}),
        server.http.post("/v1/adapters/wide/alias", json={"alias": name}),
    ):
        assert refusal(response)["code"] in ("invalid_name", "invalid_value")
    assert server.names() == ["wide", "narrow"]


def test_names_that_are_taken_and_too_many(server: Server) -> None:
    first = server.there.folders["first"]
    assert refusal(upload(server.http, first, "wide"), 409)["code"] == "name_taken"
    for name in ("a", "b", "c"):
        assert upload(server.http, first, name).status_code == 200
    error = refusal(upload(server.http, first, "d"), 409)
    assert error["code"] == "too_many"
    assert "--max-adapters" in error["message"]


def test_what_does_not_fit_is_told_and_leaves_nothing(server: Server, tmp_path: Path) -> None:
    """Everything at once, as `ptune add` tells it."""
    before = sorted(path.name for path in (server.there.folder / "adapters").iterdir())
    folder = Path(shutil.copytree(server.there.folders["first"], tmp_path / "bad"))
    tensors = load_file(folder / "adapter_model.safetensors")
    names = sorted(tensors)
    tensors[names[0]] = tensors[names[0]][:, :-1].copy()
    tensors[names[3]] = tensors[names[3]] * np.float32("nan")
    save_file(tensors, folder / "adapter_model.safetensors")
    error = refusal(upload(server.http, folder, "bad"))
    assert error["code"] == "invalid_adapter"
    assert "the base needs" in error["message"]
    assert "not finite" in error["message"]
    assert sorted(path.name for path in (server.there.folder / "adapters").iterdir()) == before
    assert server.names() == ["wide", "narrow"]


def _files(server: Server, **changed: bytes | None) -> list[tuple[str, str, bytes]]:
    """The files of a good adapter, some of them changed or left out."""
    first = server.there.folders["first"]
    names = {"config": "adapter_config.json", "weights": "adapter_model.safetensors"}
    contents: dict[str, bytes | None] = {key: (first / file).read_bytes() for key, file in names.items()}
    contents |= changed
    return [("files", (names.get(key, key.replace("__", "."))), content) for key, content in contents.items() if content is not None]  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "status", "told"),
    [
        ({"weights": None}, 400, "adapter_model.safetensors missing; pickles"),
        ({"weights": None, "adapter_model__bin": b"\x80\x04."}, 400, "file 'adapter_model.bin'"),
        ({"adapter_model__pt": b"\x80\x04."}, 400, "file 'adapter_model.pt'"),
        ({"config": None}, 400, "adapter_config.json missing"),
        ({"weights": b"\x80\x04K\x01."}, 400, "is damaged"),
        ({"weights": b""}, 400, "is damaged"),
        ({"config": b"[" * 100_000}, 400, "adapter_config.json"),
        ({"config": b"{}"}, 400, "peft_type None"),
        ({"config": b"\xff\xfe"}, 400, "adapter_config.json"),
        ({"weights": bytes(LIMIT + 1)}, 413, "--max-adapter-bytes"),
        ({"weights": bytes(LIMIT + 5 * 2**20)}, 413, "--max-adapter-bytes"),
        ({"config": b" " * (2**20 + 1)}, 413, "its other files"),
        ({"chat_template__jinja": b"{% for %}"}, 400, "chat template cannot be used"),
    ],
)  # fmt: skip
def test_uploads_that_are_no_adapter(
    server: Server, changed: dict[str, bytes | None], status: int, told: str
) -> None:
    files = [(part[0], (part[1], part[2])) for part in _files(server, **changed)]
    response = server.http.post("/v1/adapters", data={"name": "bad"}, files=files)
    assert told in refusal(response, status)["message"]
    assert server.names() == ["wide", "narrow"]


def test_an_adapter_of_another_base_is_refused_and_one_of_this_base_is_verified(
    server: Server, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(server.there.folders["first"], tmp_path / "noted"))
    parts = [
        (name, (folder / name).read_bytes()) for name in ("adapter_config.json", "adapter_model.safetensors")
    ]

    def sent(base: str) -> Response:
        note = json.dumps({"base": base, "template": None, "system": "Be brief."}).encode()
        files = [("files", part) for part in [*parts, ("ptune.json", note)]]
        return server.http.post("/v1/adapters", data={"name": "noted"}, files=files)

    assert "was trained on another base" in refusal(sent("f" * 64))["message"]
    assert server.names() == ["wide", "narrow"]
    assert sent("tiny").json()["base"] == "verified"


def test_forms_that_are_none(server: Server) -> None:
    def sent(content: bytes, kind: str, **headers: str) -> Response:
        return server.http.post("/v1/adapters", content=content, headers={"content-type": kind, **headers})

    assert refusal(sent(b"x", "multipart/form-data"))["code"] == "invalid_adapter"
    assert refusal(sent(b"x", "multipart/form-data; boundary=b"))["code"] == "invalid_adapter"
    assert refusal(sent(b"name=x", "application/x-www-form-urlencoded"), 415)
    assert refusal(server.http.post("/v1/adapters", json={"name": "x", "root": "y"}))["param"] == "root"
    first = server.there.folders["first"]
    assert "unknown field" in refusal(upload(server.http, first, "x", path="/etc"))["message"]


def test_a_page_of_another_site_cannot_add_one(server: Server) -> None:
    """A browser sends forms across origins without asking first."""
    files = [("files", part[1:]) for part in _files(server)]
    sites = {"http://evil.example": 403, "null": 403, "http://[": 403, "http://testserver": 200}
    for origin, status in sites.items():
        response = server.http.post(
            "/v1/adapters", data={"name": "page"}, files=files, headers={"origin": origin}
        )
        assert response.status_code == status, response.text


def test_what_was_added_to_the_bundle_since_is_served_when_asked(server: Server) -> None:
    from ptune.engine.adapters.folder import install, remove

    install(Bundle.open(server.there.folder), server.there.folders["other"], "added")
    taken = server.http.post("/v1/adapters", json={"name": "added", "alias": "wide"})
    assert refusal(taken, 409)["code"] == "name_taken"
    assert server.names() == ["wide", "narrow"], "it is not served where its alias is refused"
    assert server.http.post("/v1/adapters", json={"name": "added"}).json()["name"] == "added"
    assert token_ids(completed(server.http, "added")) == server.there.greedy("other")
    assert (
        refusal(server.http.post("/v1/adapters", json={"name": "gone"}), 404)["code"] == "adapter_not_found"
    )
    remove(Bundle.open(server.there.folder), "added")  # by somebody else
    assert server.http.delete("/v1/adapters/added").status_code == 200


def test_the_api_is_off_unless_asked_for_and_needs_the_key(server: Server) -> None:
    app = server.http.app
    model = app.state.service.model  # type: ignore[attr-defined]
    with TestClient(create_app(model, Settings())) as off:
        for method, path in (
            ("GET", "/v1/adapters"),
            ("POST", "/v1/load_lora_adapter"),
            ("DELETE", "/v1/adapters/wide"),
        ):
            assert off.request(method, path).status_code == 404
        assert "/v1/adapters" not in off.get("/openapi.json").json()["paths"]
    keyed = Settings(adapters_api=True, api_keys=ApiKeys(("alpha",)))
    with TestClient(create_app(model, keyed)) as http:
        for method, path in (
            ("GET", "/v1/adapters"),
            ("POST", "/v1/adapters"),
            ("DELETE", "/v1/adapters/wide"),
        ):
            assert http.request(method, path).status_code == 401
        assert http.get("/v1/adapters", headers={"authorization": "Bearer alpha"}).status_code == 200
        error = http.post(
            "/v1/adapters", json={"name": "x", "path": "first"}, headers={"authorization": "Bearer alpha"}
        ).json()["error"]
        assert "--adapter-root" in error["message"]
        assert set(http.get("/openapi.json").json()["paths"]["/v1/adapters"]) == {"get", "post"}


def test_where_parity_is_required_unmeasured_adapters_are_listed_and_refused(server: Server) -> None:
    model = server.http.app.state.service.model  # type: ignore[attr-defined]
    with TestClient(create_app(model, Settings(adapters_api=True, require_parity=True))) as http:
        assert "wide" in [one["id"] for one in http.get("/v1/models").json()["data"]]
        for path, body in (
            ("/v1/completions", {"prompt": "x"}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
            ("/tokenize", {"prompt": "x"}),
        ):
            error = refusal(http.post(path, json={"model": "wide", **body}), 403)
            assert error["code"] == "parity_unmeasured"
            assert "--require-parity" in error["message"]
        assert completed(http, "base").status_code == 200
