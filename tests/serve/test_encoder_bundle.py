"""A real bundle of two tasks, served by `ptune serve` as a process: what comes over HTTP is what plain peft computes."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from support import encoder_bundles
from support.encoder_bundles import NAMES, SENTIMENT, TEXTS
from support.fake_chat_model import wait_until

from ptune.codecs.words import split
from ptune.engine.options import EngineOptions
from ptune.errors import UsageError
from ptune_serve import lifecycle


@dataclass
class Served:
    process: subprocess.Popen[str]
    http: httpx.Client
    said: Path

    def ask(self, path: str, model: str, value: object) -> dict[str, Any]:
        response = self.http.post(path, json={"model": model, "input": value})
        response.raise_for_status()
        return response.json()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    ready, said = folder / "ready", folder / "said"
    bundle = encoder_bundles.tiny().bundle.folder
    options = ["--port", "0", "--no-ui", "--ready-file", str(ready), "--threads", "1"]
    with said.open("w") as out:
        command = [sys.executable, "-m", "ptune", "serve", str(bundle), *options]
        process = subprocess.Popen(command, stdout=out, stderr=out, text=True)
    try:
        wait_until(lambda: ready.exists() or process.poll() is not None)
        assert ready.exists(), said.read_text()
        with httpx.Client(base_url=ready.read_text().strip(), timeout=30) as http:
            yield Served(process, http, said)
    finally:
        process.kill()
        process.wait()


def test_two_tasks_at_once_over_http_are_what_peft_computes(served: Served) -> None:
    """One encoder, requests for both adapters in flight together."""
    tiny = encoder_bundles.tiny()

    def asked(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
        return served.ask("/v1/classify", "mood", text), served.ask("/v1/tag", "names", text)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(asked, TEXTS))
    codec = encoder_bundles.codec_of(tiny.models["mood"].base_model.model)
    for text, (mood, names) in zip(TEXTS, answers, strict=True):
        [item] = mood["data"]
        cut = codec.encode(text, max_length=SENTIMENT.max_length)
        arrays = {"input_ids": np.array(cut.ids), "token_type_ids": np.array(cut.type_ids)}
        logits = encoder_bundles.torch_logits(tiny.models["mood"], arrays)
        expected = np.exp(logits - logits.max())
        np.testing.assert_allclose(item["probs"], expected / expected.sum(), atol=1e-4)
        assert item["label"] == SENTIMENT.labels[int(logits.argmax())]
        assert mood["usage"]["prompt_tokens"] == len(cut.ids)
        assert ("truncated" in item) == cut.truncated
        _check_tags(text, names["data"][0]["entities"], tiny.models["names"], codec)


def _check_tags(text: str, entities: list[dict[str, Any]], model: Any, codec: Any) -> None:
    """Every word lies in an entity of the type that peft gives it, or in none."""
    words = codec.encode_words([text[begin:end] for begin, end in split(text)])
    arrays = {"input_ids": np.array(words.ids), "token_type_ids": np.array(words.type_ids)}
    logits = encoder_bundles.torch_logits(model, arrays)
    for (begin, end), token in zip(split(text), words.first, strict=True):
        kind = NAMES.labels[int(logits[token].argmax())].partition("-")[2]
        around = [one["label"] for one in entities if one["begin"] <= begin and end <= one["end"]]
        assert around == ([kind] if kind else [])
    for one in entities:
        assert text[one["begin"] : one["end"]] == one["text"]


def test_the_printed_command_works(served: Served) -> None:
    line = next(line for line in served.said.read_text().splitlines() if line.startswith("Try: curl "))
    words = shlex.split(line)
    url, header, body = words[2], words[words.index("-H") + 1], words[words.index("-d") + 1]
    name, value = header.split(": ")
    response = httpx.post(url, content=body, headers={name: value})
    assert response.status_code == 200, response.text


def test_models_of_a_real_bundle(served: Served) -> None:
    cards = {card["id"]: card for card in served.http.get("/v1/models").json()["data"]}
    assert cards["mood"]["labels"] == list(SENTIMENT.labels)
    assert cards["names"]["endpoint"] == "/v1/tag"
    answer = served.http.post("/v1/classify", json={"model": "mood", "input": "a day"})
    assert answer.headers["x-ptune-adapter"] == cards["mood"]["fingerprint"]


def test_an_encoder_has_no_kv_cache() -> None:
    with pytest.raises(UsageError, match="leave out --kv-gb"):
        lifecycle.serve(
            encoder_bundles.tiny().bundle.folder, port=0, ui=False, options=EngineOptions(kv_bytes=1 << 29)
        )


def test_it_stops_gently(served: Served) -> None:
    """Last: it ends the server."""
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(120) == 0
