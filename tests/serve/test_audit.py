"""The audit log, over a real engine: who added, moved or removed which adapter, and who tried to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from support.living_adapters import living

import ptune
from ptune.errors import UsageError
from ptune_serve.access.audit import AuditLog
from ptune_serve.access.auth import ApiKeys
from ptune_serve.app import create_app
from ptune_serve.service import Settings


def test_the_audit_log_has_who_changed_what(tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(
        '[[keys]]\nname = "boss"\nkey = "sk-boss-0123456789abcdef"\nscopes = ["infer", "admin"]\n'
        '[[keys]]\nname = "guest"\nkey = "sk-guest-0123456789abcdef"\nscopes = ["infer"]\n'
    )
    there = living(tmp_path / "living")
    there.adapter("first", seed=11)
    log = tmp_path / "audit.jsonl"
    model = ptune.load(there.folder, threads=1, max_rows=6)
    settings = Settings(
        adapters_api=True,
        adapter_root=there.outside,
        api_keys=ApiKeys.read(keys),
        audit=AuditLog(log),
    )
    boss = {"authorization": "Bearer sk-boss-0123456789abcdef", "x-request-id": "one"}
    guest = {"authorization": "Bearer sk-guest-0123456789abcdef"}
    body = {"name": "mine", "path": "first"}
    with TestClient(create_app(model, settings)) as http:
        assert http.post("/v1/adapters", json=body, headers=guest).status_code == 403
        assert http.post("/v1/adapters", json=body).status_code == 401
        added = http.post("/v1/adapters", json=body, headers=boss)
        assert added.status_code == 200
        log.rename(tmp_path / "rotated.jsonl")
        http.post("/v1/adapters/mine/alias", json={"alias": "now"}, headers=boss).raise_for_status()
        http.get("/v1/adapters", headers=boss).raise_for_status()
        http.delete("/v1/aliases/now", headers=boss).raise_for_status()
        http.delete("/v1/adapters/mine", headers=boss).raise_for_status()
        assert http.delete("/v1/adapters/mine", headers=boss).status_code == 404
    model.close()
    before, after = (
        [json.loads(line) for line in path.read_text().splitlines()]
        for path in (tmp_path / "rotated.jsonl", log)
    )
    assert [(line.get("key"), line["status"]) for line in before] == [
        ("guest", 403),
        (None, 401),
        ("boss", 200),
    ]
    assert before[-1]["request_id"] == "one"
    assert before[-1]["hash"] == added.json()["hash"]
    assert [
        (line["method"], line["route"], line.get("name"), line.get("alias"), line["status"]) for line in after
    ] == [
        ("POST", "/v1/adapters/{name}/alias", "mine", "now", 200),
        ("DELETE", "/v1/aliases/{alias}", None, "now", 200),
        ("DELETE", "/v1/adapters/{name}", "mine", None, 200),
        ("DELETE", "/v1/adapters/{name}", "mine", None, 404),
    ]


def test_an_audit_log_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--audit-log .*: Is a directory"):
        AuditLog(tmp_path)
