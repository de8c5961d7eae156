"""Receipts and their replay, over a real engine: the same tokens on another server, and what is not the same."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from support.fake_chat_model import FakeChatModel
from support.living_adapters import Living, living

import ptune
from ptune.cli import main
from ptune.errors import FormatError, UsageError
from ptune_serve.app import create_app
from ptune_serve.receipts.store import Receipts, find
from ptune_serve.service import Settings

USER = [{"role": "user", "content": "ab cd"}]
WEATHER = {"name": "weather", "parameters": {"type": "object", "properties": {"place": {"enum": ["a", "b"]}}}}
PERSON = {
    "type": "object",
    "properties": {"old": {"type": "boolean"}},
    "required": ["old"],
    "additionalProperties": False,
}
ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "greedy": ("/v1/chat/completions", {"messages": USER, "temperature": 0}),
    "drawn without a seed": ("/v1/chat/completions", {"messages": USER, "n": 3}),
    "a stream": ("/v1/chat/completions", {"messages": USER, "stream": True, "stream_options": {"include_usage": True}}),
    "a form": (
        "/v1/chat/completions",
        {"messages": USER, "response_format": {"type": "json_schema", "json_schema": {"name": "p", "schema": PERSON}}},
    ),
    "rules": (
        "/v1/chat/completions",
        {"messages": USER, "logit_bias": {"5": 3}, "min_tokens": 3, "bad_words": ["a"], "top_k": 9, "logprobs": True, "top_logprobs": 2},
    ),
    "two prompts": ("/v1/completions", {"prompt": ["ab", "cd e"], "n": 2, "stop": ["b"], "echo": True}),
    "beams": ("/v1/completions", {"prompt": "ab", "num_beams": 2}),
    "Anthropic's": ("/v1/messages", {"messages": USER, "max_tokens": 100_000, "system": "Be brief.", "stream": True}),
    "Ollama's": ("/api/chat", {"messages": USER, "options": {"num_predict": 5, "temperature": 1.5}}),
    "Responses": ("/v1/responses", {"input": "ab", "instructions": "Be brief.", "store": False}),
}  # fmt: skip


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Living:
    return living(tmp_path_factory.mktemp("receipts"))


@pytest.fixture(scope="module")
def kept(there: Living, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The folder of receipts of one server, and the request's id for each way to ask."""
    folder, ids = tmp_path_factory.mktemp("kept") / "receipts", {}
    model = ptune.load(there.folder, threads=1, max_rows=4)
    with TestClient(create_app(model, Settings(receipts=Receipts(folder, 30)))) as http:
        for name, (path, body) in ASKED.items():
            limit = {} if "max_tokens" in body or path.startswith("/api") else {"max_tokens": 12}
            if path == "/v1/responses":
                limit = {"max_output_tokens": 12}
            response = http.post(path, json={"model": "wide", **limit, **body})
            assert response.status_code == 200, response.text
            ids[name] = response.headers["x-request-id"]
        first = http.post(
            "/v1/responses", json={"model": "wide", "input": "ab", "max_output_tokens": 9}
        ).json()
        then = {"model": "wide", "input": "more", "max_output_tokens": 9, "previous_response_id": first["id"]}
        ids["gone on"] = http.post("/v1/responses", json=then).headers["x-request-id"]
        refused = http.post("/v1/chat/completions", json={"model": "wide", "messages": []})
        ids["refused"] = refused.headers["x-request-id"]
    model.close()
    return folder, ids


@pytest.mark.parametrize("name", [*ASKED, "gone on"])
def test_the_same_tokens_elsewhere(
    name: str, kept: tuple[Path, dict[str, str]], there: Living, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, ids = kept
    code = main(["replay", str(folder), ids[name], "--bundle", str(there.folder), "--threads", "1", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert code == 0, told
    result = told["result"]
    assert result["same"]
    assert sum(len(answer["tokens"]) for answer in result["receipt"]["answers"]) > 0
    assert result["receipt"]["body"]["seed"] is not None


def test_what_a_receipt_holds_can_be_asked_again(tmp_path: Path) -> None:
    """A function that was named stood there in the server's own words, which no request may hold."""
    named = {"type": "function", "function": {"name": "weather"}}
    tools = [{"type": "function", "function": WEATHER}]
    body = {"model": "pirate", "messages": USER, "tools": tools, "tool_choice": named}
    with TestClient(create_app(FakeChatModel(), Settings(receipts=Receipts(tmp_path, 30)))) as http:
        request_id = http.post("/v1/chat/completions", json=body).headers["x-request-id"]
        kept = find(tmp_path, request_id)["body"]
        assert kept["tool_choice"] == named
        again = http.post("/v1/chat/completions", json=kept)
    assert again.status_code == 200, again.text


def test_what_was_refused_has_no_receipt(kept: tuple[Path, dict[str, str]]) -> None:
    folder, ids = kept
    with pytest.raises(FormatError, match="no receipt of request"):
        find(folder, ids["refused"])


def test_a_token_that_differs_is_found(
    kept: tuple[Path, dict[str, str]], there: Living, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A receipt with its seal, of a server that would have said something else."""
    folder, ids = kept
    receipt = find(folder, ids["drawn without a seed"])
    receipt["answers"][1]["tokens"][2] += 1
    shutil.copytree(folder, tmp_path / "other")
    for path in (tmp_path / "other").glob("*.jsonl"):
        path.unlink()
    Receipts(tmp_path / "other", 30).write(receipt)
    code = main(
        [
            "replay",
            str(tmp_path / "other"),
            receipt["id"],
            "--bundle",
            str(there.folder),
            "--threads",
            "1",
        ]
    )
    assert code == 1
    assert "DIFFERS: answer 1 from its token 2 on" in capsys.readouterr().out


def test_a_receipt_that_was_changed_is_found_out(kept: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    folder, ids = kept
    shutil.copytree(folder, tmp_path / "changed")
    [day] = (tmp_path / "changed").glob("*.jsonl")
    day.write_text(day.read_text().replace("Be brief.", "Be rude."))
    with pytest.raises(FormatError, match="has been changed since it was written"):
        find(tmp_path / "changed", ids["Anthropic's"])


def test_another_adapter_or_base_is_named(
    kept: tuple[Path, dict[str, str]], there: Living, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, ids = kept
    shutil.copytree(there.folder, tmp_path / "bundle")
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    command = ["replay", str(folder), ids["greedy"], "--bundle", str(tmp_path / "bundle")]
    manifest["adapters"]["wide"] = manifest["adapters"]["narrow"]
    (tmp_path / "bundle" / "manifest.json").write_text(json.dumps(manifest))
    assert main(command) == 1
    assert "answered by another adapter wide" in capsys.readouterr().err
    manifest["base"]["hash"] = "sha256:0"
    (tmp_path / "bundle" / "manifest.json").write_text(json.dumps(manifest))
    assert main(command) == 1
    assert "answered by another base" in capsys.readouterr().err


def test_a_killed_servers_last_line_does_not_spoil_the_next(tmp_path: Path) -> None:
    Receipts(tmp_path, 30).write({"id": "one"})
    [day] = tmp_path.glob("*.jsonl")
    day.write_bytes(day.read_bytes() + b'{"receipt": {"id": "to')
    Receipts(tmp_path, 30).write({"id": "three"})
    assert find(tmp_path, "one") == {"id": "one"}
    assert find(tmp_path, "three") == {"id": "three"}
    with pytest.raises(FormatError, match="no receipt"):
        find(tmp_path, "to")


def test_old_days_go(tmp_path: Path) -> None:
    for days in (1, 29, 31, 400):
        (tmp_path / f"{datetime.now(UTC) - timedelta(days=days):%Y-%m-%d}.jsonl").write_text("")
    (tmp_path / "mine.jsonl").write_text("")
    Receipts(tmp_path, 30).write({"id": "one"})
    assert (
        len(list(tmp_path.glob("*.jsonl"))) == 4
    )  # today, two that are young enough, and one that is not ours


def test_others_on_this_machine_cannot_read_them(tmp_path: Path) -> None:
    Receipts(tmp_path / "new", 30).write({"id": "one"})
    for path in (tmp_path / "new").iterdir():
        assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("days", [0, -1])
def test_no_day_at_all_is_refused(tmp_path: Path, days: int) -> None:
    with pytest.raises(UsageError, match="--receipt-days"):
        Receipts(tmp_path, days)


def test_a_folder_that_holds_none(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="has no receipts"):
        find(tmp_path, "x")
