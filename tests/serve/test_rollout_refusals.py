"""What cannot judge a canary: texts, rules and servers, each refused in one sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from support.http_client import Client
from support.judged_canaries import begin
from support.living_adapters import Living, living
from support.several_bundles import several, write_bundle

import ptune
from ptune.formats.bundle import AdapterRecord
from ptune_serve.app import create_app
from ptune_serve.rollout import texts
from ptune_serve.service import Settings

GOOD = (
    json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}) + "\n"
)


@contextmanager
def served(there: Living, **settings: Any) -> Iterator[Client]:
    model = ptune.load(there.folder, threads=1, max_rows=4)
    try:
        with TestClient(create_app(model, Settings(adapters_api=True, **settings))) as http:
            yield http
    finally:
        model.close()


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Living:
    return living(tmp_path_factory.mktemp("refusals"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts") / "root"
    folder.mkdir()
    (folder / "heldout.jsonl").write_text(GOOD)
    return folder


@pytest.fixture(scope="module")
def http(there: Living, root: Path) -> Iterator[Client]:
    with served(there, adapter_root=root) as http:
        yield http


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "the file is empty"),
        (GOOD + "\n{", "line 3: not JSON: Expecting property name"),
        (GOOD + "[1]\n", "line 2: not a JSON object but list"),
        (GOOD + '{"question": "a"}\n', "line 2: no known shape: its columns are question; known are messages"),
        (GOOD + '{"messages": "x"}\n', "line 2: messages must be a list of objects"),
        (GOOD + '{"messages": null, "prompt": 1}\n', "line 2: has no messages"),
        (GOOD + '{"messages": [{"role": "user", "content": "a"}]}\n', "line 2: nothing to train on"),
        (GOOD + '{"\\ud800": 1}\n', "line 2: no known shape: its columns are ?"),
        (GOOD + '{"prompt": "x", "completion": "\\ud800"}\n', "line 2: completion"),
        (GOOD + GOOD.replace('"a"', json.dumps("word " * 600)), "tokens long, and a sequence may have 512 here"),
        (b"\xef\xbb\xbf" + GOOD.encode() + b"\xff\n", "line 2: not UTF-8"),
    ],
)  # fmt: skip
def test_a_broken_file_is_refused_with_its_line(
    http: Any, root: Path, content: str | bytes, told: str
) -> None:
    (root / "broken.jsonl").write_bytes(content if isinstance(content, bytes) else content.encode())
    refused = begin(http, "wide", "narrow", texts="broken.jsonl")
    error = refused.json()["error"]
    assert refused.status_code == 400
    assert told in error["message"]
    assert error["message"].startswith("canary.decide.loss.texts: ")
    assert error["param"] == "canary.decide.loss.texts"
    assert str(root) not in error["message"]
    assert "\n" not in error["message"]
    assert http.get("/v1/aliases").json()["data"] == []


def test_limits_of_the_file(http: Any, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "large.jsonl").write_text(GOOD * 4)
    monkeypatch.setattr(texts, "MOST_TEXTS", 3)
    refused = begin(http, "wide", "narrow", texts="large.jsonl")
    assert refused.status_code == 413
    assert "the file has 4 lines, and at most 3 texts are compared" in refused.text
    monkeypatch.setattr(texts, "MOST_BYTES", len(GOOD) * 4 - 1)
    assert begin(http, "wide", "narrow", texts="large.jsonl").status_code == 413


@pytest.mark.parametrize("path", ["../secret.jsonl", "link.jsonl", "gone.jsonl", "", ".", "a\0b"])
def test_texts_lie_below_the_root(http: Any, root: Path, path: str) -> None:
    (root.parent / "secret.jsonl").write_text("sesame\n")
    (root / "link.jsonl").unlink(missing_ok=True)
    (root / "link.jsonl").symlink_to(root.parent / "secret.jsonl")
    refused = begin(http, "wide", "narrow", texts=path)
    assert refused.status_code == (400 if path == "" else 403)
    assert "sesame" not in refused.text


@pytest.mark.parametrize(
    "rule", [{"margin": -1}, {"margin": 1}, {"error": 0.5}, {"train_on": "all"}, {"by": 1}]
)
def test_a_rule_that_means_nothing_is_refused(http: Any, rule: dict[str, Any]) -> None:
    refused = begin(http, "wide", "narrow", **rule)
    assert refused.status_code == 400
    assert f"canary.decide.loss.{next(iter(rule))}" in refused.json()["error"]["message"]


def test_no_root_and_one_replica_of_many(there: Living, root: Path) -> None:
    with served(there, adapter_root=None) as http:
        assert "this server has no --adapter-root" in begin(http, "wide", "narrow").json()["error"]["message"]
        assert begin(http, "gone", "narrow").status_code == 404
    with served(there, adapter_root=root, judges_canaries=False) as http:
        assert "judged by one server" in begin(http, "wide", "narrow").json()["error"]["message"]


def test_one_that_could_not_answer_once_promoted(there: Living, root: Path) -> None:
    with served(there, adapter_root=root, require_parity=True) as http:
        refused = begin(http, "wide", "narrow")
        assert refused.status_code == 403
        assert "adapter 'narrow' is unmeasured" in refused.json()["error"]["message"]


def test_an_encoders_canary_has_no_losses(tmp_path: Path) -> None:
    records = [AdapterRecord(name=name, task="text-classification") for name in ("a", "b")]
    write_bundle(tmp_path / "texts", "encoder", records)
    with several(tmp_path, adapters_api=True, adapter_root=tmp_path) as one:
        refused = begin(one.http, "a", "b")
        assert refused.status_code == 400
        assert "of causal language models only" in refused.json()["error"]["message"]
