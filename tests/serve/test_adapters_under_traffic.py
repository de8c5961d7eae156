"""Adapters added, switched and removed while clients ask for them: every answer is the adapter's own, or a 404."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from support.fake_chat_model import serving
from support.living_adapters import PROMPT, Living, completed, living, token_ids, upload

import ptune
from ptune.engine.adapters.lora import factor_bytes
from ptune.tasks.chat.infer import ChatModel
from ptune_serve.adapters import trial as adapter_trial
from ptune_serve.app import create_app
from ptune_serve.service import Settings

NAMES = [f"t{number}" for number in range(8)]


@dataclass
class Served:
    there: Living
    url: str
    model: ChatModel

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Memory for three adapters."""
    there = living(tmp_path_factory.mktemp("traffic"))
    for seed, name in enumerate(NAMES):
        there.adapter(name, seed=40 + seed)
    limit = 3 * factor_bytes(there.folders["t0"]) + factor_bytes(there.folder / "adapters" / "wide")
    model = ptune.load(there.folder, threads=1, max_rows=6, adapter_bytes=limit)
    with serving(create_app(model, Settings(adapters_api=True))) as url:
        yield Served(there, url, model)
    model.close()


def test_a_stream_goes_on_when_its_adapter_is_removed(served: Served) -> None:
    body = {
        "model": "t0",
        "prompt": PROMPT,
        "temperature": 0,
        "max_tokens": 40,
        "stream": True,
        "return_token_ids": True,
    }
    with served.client() as http, served.client() as admin:
        assert upload(admin, served.there.folders["t0"], "t0").status_code == 200
        with http.stream("POST", "/v1/completions", json=body) as stream:
            lines = (line.removeprefix("data: ") for line in stream.iter_lines() if line)
            found = [json.loads(next(lines))]
            assert admin.delete("/v1/adapters/t0").status_code == 200
            assert completed(admin, "t0").status_code == 404
            found += [json.loads(line) for line in lines if line != "[DONE]"]
    ids = [token for chunk in found for token in chunk["choices"][0].get("token_ids", [])]
    assert ids == served.there.greedy("t0", len(ids))
    assert len(ids) > 5


def test_everything_at_once(served: Served) -> None:
    expected = {name: served.there.greedy(name) for name in (*NAMES, "wide", "base")}
    done, wrong, answered = threading.Event(), [], []

    def client(seed: int) -> None:
        with served.client() as http:
            turn = seed
            while not done.is_set():
                turn += 1
                name = [*NAMES, "wide", "base", "prod"][turn * 7 % 11]
                response = completed(http, name)
                if response.status_code == 404:
                    continue
                by = response.headers.get("x-ptune-adapter", "").partition("@")[0]
                if (
                    response.status_code != 200
                    or token_ids(response) != expected[by]
                    or name not in (by, "prod")
                ):
                    wrong.append((name, by, response.text))
                answered.append(name)

    clients = [threading.Thread(target=client, args=(seed,)) for seed in range(4)]
    for thread in clients:
        thread.start()

    def enough() -> bool:
        return len(answered) > 20 and {"wide", "base"} <= {*answered} and bool({*NAMES, "prod"} & {*answered})

    with served.client() as admin:
        turns = 0
        while turns < 2 or not enough():
            turns += 1
            for name in NAMES:
                assert upload(admin, served.there.folders[name], name, alias="prod").status_code == 200
                assert len(admin.get("/v1/models").json()["data"]) >= 4
            assert admin.post("/v1/aliases/prod/rollback").json()["name"] == NAMES[-2]
            admin.delete("/v1/aliases/prod")
            for name in NAMES:
                assert admin.delete(f"/v1/adapters/{name}").status_code == 200
    done.set()
    for thread in clients:
        thread.join(120)
        assert not thread.is_alive()
    assert wrong == []
    stats = served.model.engine.adapter_stats()
    assert stats.limit_bytes is not None
    assert stats.bytes <= stats.limit_bytes


def test_of_those_who_send_the_same_name_one_wins(served: Served) -> None:

    codes: list[int] = []

    def send() -> None:
        with served.client() as http:
            codes.append(upload(http, served.there.folders["t1"], "same").status_code)

    senders = [threading.Thread(target=send) for _ in range(5)]
    for thread in senders:
        thread.start()
    for thread in senders:
        thread.join(60)
    assert sorted(codes) == [200, 409, 409, 409, 409]
    with served.client() as admin:
        assert token_ids(completed(admin, "same")) == served.there.greedy("t1")
        admin.delete("/v1/adapters/same")


@pytest.mark.parametrize(
    "changed",
    [{"target_modules": "(.*.*)*(.*.*)*(.*.*)*x"}, {"rank_pattern": {"(.*.*)*(.*.*)*x": 2}}, {"exclude_modules": "((.+)+)+x"}],
    ids=["target", "rank", "exclude"],
)  # fmt: skip
def test_patterns_that_take_for_ever_hold_nobody_up(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, object]
) -> None:
    monkeypatch.setattr(adapter_trial, "LIMIT_S", 2)
    folder = Path(shutil.copytree(served.there.folders["t1"], tmp_path / "slow"))
    config = folder / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changed))
    with served.client() as http, served.client() as other, ThreadPoolExecutor(1) as pool:
        slow = pool.submit(upload, http, folder, "slow")
        while not slow.done():
            assert token_ids(completed(other, "wide")) == served.there.greedy("wide")
        assert "took more than 2 s to match" in slow.result().json()["error"]["message"]
        assert slow.result().status_code == 400


def test_patterns_that_are_quick_are_taken(served: Served, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(served.there.folders["t1"], tmp_path / "quick"))
    config = folder / "adapter_config.json"
    changed = {"target_modules": r".*\.(q_proj|v_proj|down_proj)", "rank_pattern": {r"layers\.[0-9]+\..*": 2}}
    config.write_text(json.dumps(json.loads(config.read_text()) | changed))
    with served.client() as http:
        assert upload(http, folder, "quick").status_code == 200
        assert token_ids(completed(http, "quick")) == served.there.greedy("t1")
        http.delete("/v1/adapters/quick")
