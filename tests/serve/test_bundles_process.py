"""`ptune serve FOLDER` as a process, over real bundles: a chat model, an encoder, and one that is damaged."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
from support import encoder_bundles
from support.fake_chat_model import wait_until
from support.living_adapters import PROMPT, Living, living


@dataclass
class Served:
    process: subprocess.Popen[str]
    http: httpx.Client
    said: Path
    chat: Living


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("several")
    chat = living(folder / "made")
    bundles = folder / "bundles"
    shutil.move(chat.folder, bundles / "chat")
    for name in ("texts", "damaged"):
        shutil.copytree(encoder_bundles.tiny().bundle.folder, bundles / name)
    encoder_bundles.damage(bundles / "damaged" / "graphs" / "fp32" / "model.onnx")
    (bundles / "chat.yaml").write_text("kv_gb: 0.05\nmax_rows: 2\n")
    (bundles / "texts.yaml").write_text("preload: true\n")
    ready, said = folder / "ready", folder / "said"
    with said.open("w") as out:
        options = ["--port", "0", "--no-ui", "--ready-file", str(ready), "--threads", "1", "--memory-gb", "2"]
        command = [sys.executable, "-m", "ptune", "serve", str(bundles), *options]
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, text=True)
    try:
        wait_until(lambda: ready.exists() or process.poll() is not None)
        assert ready.exists(), said.read_text()
        with httpx.Client(base_url=ready.read_text().strip(), timeout=120) as http:
            yield Served(process, http, said, chat)
    finally:
        process.kill()
        process.wait()


def states(served: Served) -> dict[str, str]:
    return {one["name"]: one["state"] for one in served.http.post("/v2/repository/index").json()}


def test_each_answers_as_it_would_alone(served: Served) -> None:
    wait_until(lambda: states(served)["texts"] == "READY")  # from the start
    assert states(served)["chat"] == "UNAVAILABLE"
    body = {"prompt": PROMPT, "max_tokens": 6, "temperature": 0, "ignore_eos": True, "return_token_ids": True}
    for name in ("base", "wide", "narrow"):
        answer = served.http.post("/v1/completions", json={"model": f"chat:{name}", **body})
        assert answer.status_code == 200, answer.text
        assert answer.json()["choices"][0]["token_ids"] == served.chat.greedy(name)
    text = encoder_bundles.TEXTS[0]
    answer = served.http.post(
        "/v1/classify", json={"model": "texts:mood", "input": text, "use_activation": False}
    )
    expected = encoder_bundles.tiny().expected(0, "mood")
    np.testing.assert_allclose(answer.json()["data"][0]["probs"], expected.reshape(-1), atol=1e-4)
    assert states(served)["chat"] == "READY"


def test_a_damaged_bundle_says_so_and_the_others_go_on(served: Served) -> None:
    for _ in range(2):
        answer = served.http.post("/v1/classify", json={"model": "damaged:mood", "input": "good"})
        assert answer.status_code == 503
        message = answer.json()["error"]["message"]
        assert message.startswith("bundle 'damaged' cannot be loaded: ")
        assert "model.onnx is damaged" in message
        assert "/bundles/" not in message
    good = served.http.post("/v1/classify", json={"model": "texts:mood", "input": "good"})
    assert good.status_code == 200
    assert served.http.get("/health").status_code == 200


def test_what_is_unloaded_is_loaded_again(served: Served) -> None:
    threads = served.http.get("/metrics").text.count("ptune_bundle_loaded")
    for _ in range(3):
        assert served.http.post("/v2/repository/models/chat/unload").status_code == 200
        assert states(served)["chat"] == "UNAVAILABLE"
        assert (
            served.http.post("/v1/completions", json={"model": "chat", "prompt": PROMPT}).status_code == 200
        )
    assert served.http.get("/metrics").text.count("ptune_bundle_loaded") == threads


def test_sigterm_ends_it_with_all_bundles(served: Served) -> None:
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(120) == 0, served.said.read_text()
    said = served.said.read_text()
    assert "Bundles may take 2.00 GB together" in said
    assert "Serving chat, chat:narrow, chat:wide" in said or "Serving chat, chat:wide, chat:narrow" in said
