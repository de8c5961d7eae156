"""`ptune serve --files` with a real engine: killed in the middle of a batch, it gives each line transformers' tokens, once."""

from __future__ import annotations

import json
import time
from pathlib import Path

from support.batch_lines import ENDED, jsonl
from support.fake_chat_model import wait_until
from support.living_adapters import PROMPT, Process, living

LINES = 40
TOKENS = 6


def test_a_batch_of_a_real_model_survives_sigkill(tmp_path: Path) -> None:
    there = living(tmp_path)
    body = {"prompt": PROMPT, "temperature": 0, "max_tokens": TOKENS, "return_token_ids": True}
    models = ["narrow", "wide", "base"]
    entries = [
        {
            "custom_id": f"{number} {models[number % 3]}",
            "method": "POST",
            "url": "/v1/completions",
            "body": {**body, "model": models[number % 3]},
        }
        for number in range(LINES)
    ]
    options = ("--files", str(tmp_path / "kept"), "--batch-lines", "2", "--files-bytes", "1GB")
    server = Process(there.folder, tmp_path / "ready", *options)
    try:
        file = server.http.post(
            "/v1/files", files={"file": ("asked.jsonl", jsonl(*entries))}, data={"purpose": "batch"}
        ).json()
        asked = {"input_file_id": file["id"], "endpoint": "/v1/completions", "completion_window": "24h"}
        batch_id = server.http.post("/v1/batches", json=asked).json()["id"]
        wait_until(lambda: server.http.get(f"/v1/batches/{batch_id}").json()["request_counts"]["completed"])
        time.sleep(0.02)
    finally:
        server.kill()
    server = Process(there.folder, tmp_path / "ready", *options)
    try:
        wait_until(lambda: server.http.get(f"/v1/batches/{batch_id}").json()["status"] in ENDED)
        batch = server.http.get(f"/v1/batches/{batch_id}").json()
        assert (batch["status"], batch["error_file_id"]) == ("completed", None)
        content = server.http.get(f"/v1/files/{batch['output_file_id']}/content").text
    finally:
        server.kill()
    expected = {name: there.greedy(name, TOKENS) for name in models}
    answers = [json.loads(line) for line in content.splitlines()]
    assert {answer["custom_id"] for answer in answers} == {entry["custom_id"] for entry in entries}
    assert len(answers) == LINES
    for answer in answers:
        model = answer["custom_id"].partition(" ")[2]
        assert answer["response"]["body"]["choices"][0]["token_ids"] == expected[model]
    assert batch["usage"]["output_tokens"] == LINES * TOKENS
