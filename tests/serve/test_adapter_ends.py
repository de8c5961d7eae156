"""Adapters that reach the ends, added over HTTP to a running server: each has its vocabulary, the base keeps its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from support.bundles import tiny_bundle
from support.end_adapters import ends_folder, peft_logits
from support.http_client import Response
from support.living_adapters import upload
from support.tiny_models import VOCAB

from ptune.tasks.chat import infer
from ptune_serve.app import create_app
from ptune_serve.service import Settings

NEW = {"two": ("<ask>", "<say>"), "three": ("<one>", "<two>", "<three>")}


@dataclass
class Server:
    base: Path
    folders: dict[str, Path]
    http: TestClient

    def said(self, name: str, prompt: object, **fields: object) -> Response:
        body = {"model": name, "prompt": prompt, "max_tokens": 4, "temperature": 0, "return_token_ids": True}
        return self.http.post("/v1/completions", json={**body, **fields})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    place = tmp_path_factory.mktemp("tokens")
    base, _, bundle = tiny_bundle(place, "llama_tied", ends=("head", "embedding", "tokens"))
    folders = {
        name: ends_folder(base, place / name, new=new, seed=at) for at, (name, new) in enumerate(NEW.items())
    }
    folders["low"] = ends_folder(base, place / "low", ends=["head", "embedding"], seed=7)
    folders["whole"] = ends_folder(base, place / "whole", whole=["head", "embedding"], seed=8)
    model = infer.load(bundle.folder, threads=1, max_rows=6, replay_golden=False)
    with TestClient(create_app(model, Settings(adapters_api=True))) as http:
        for name, folder in folders.items():
            added = upload(http, folder, name)
            assert added.status_code == 200, added.text
        yield Server(base, folders, http)
    model.close()


@pytest.mark.parametrize("name", NEW)
def test_an_added_adapter_reads_and_writes_its_own_tokens(server: Server, name: str) -> None:
    first, *_, last = NEW[name]
    body = {"model": name, "prompt": f"{first}x{last}", "add_special_tokens": False}
    tokens = server.http.post("/tokenize", json=body).json()["tokens"]
    assert (tokens[0], tokens[-1]) == (VOCAB, VOCAB + len(NEW[name]) - 1)
    answer = server.said(name, tokens, logprobs=3).json()["choices"][0]
    expected = peft_logits(server.base, server.folders[name], tokens, VOCAB + len(NEW[name]))[-1]
    assert answer["token_ids"][0] == int(expected.argmax())
    wanted = expected.astype(np.float64) - np.log(np.exp(expected.astype(np.float64)).sum())
    assert abs(answer["logprobs"]["token_logprobs"][0] - wanted.max()) < 1e-3
    forced = server.said(name, tokens, logit_bias={str(tokens[-1]): 100})
    assert forced.json()["choices"][0]["text"] == last * 4
    spelled = server.http.post("/detokenize", json={"model": name, "tokens": [tokens[-1]]})
    assert spelled.json()["prompt"] == last


@pytest.mark.parametrize("name", ["low", "whole"])
def test_an_added_adapter_of_the_ends_answers_as_peft_does(server: Server, name: str) -> None:
    prompt = [5, 17, 99, 23, 300, 41]
    answer = server.said(name, prompt, logprobs=1).json()["choices"][0]
    expected = peft_logits(server.base, server.folders[name], prompt)[-1].astype(np.float64)
    assert answer["token_ids"][0] == int(expected.argmax())
    wanted = (expected - np.log(np.exp(expected).sum())).max()
    assert abs(answer["logprobs"]["token_logprobs"][0] - wanted) < 1e-3


def test_nobody_else_may_name_them(server: Server) -> None:
    for fields in ({"prompt": [VOCAB]}, {"prompt": [5], "logit_bias": {str(VOCAB): 1}}):
        refused = server.said("base", **{"prompt": [5], **fields})
        assert refused.status_code == 400, refused.text
        assert server.said("two", **{"prompt": [5], **fields}).status_code == 200
    assert server.said("two", [VOCAB + 2]).status_code == 400
    assert server.said("three", [VOCAB + 2]).status_code == 200
    text = server.http.post("/tokenize", json={"model": "base", "prompt": "<ask>"}).json()["tokens"]
    assert max(text) < VOCAB


def test_a_form_is_written_in_the_adapters_vocabulary(server: Server) -> None:
    for name, (other, token, *_) in NEW.items():
        asked = {
            "structured_outputs": {"regex": f"({other}|{token}){{2}}"},
            "logit_bias": {str(VOCAB + 1): 50},
        }
        answer = server.said(name, "hello", **asked, max_tokens=8).json()["choices"][0]
        assert answer["text"] == token * 2
        assert answer["token_ids"][:2] == [VOCAB + 1] * 2
