"""Several bundles: keys, their limits and Prometheus' metrics count across all of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient
from support.app_routes import routes_of
from support.error_forms import said
from support.fake_chat_model import wait_until
from support.several_bundles import Several, several, write_all

from ptune_serve.access.auth import ApiKeys
from ptune_serve.access.keys import Key, Limits

OPEN_TO_ALL = {"/health", "/ready", "/openapi.json", "/v2/health/live", "/v2/health/ready"}


def key(name: str, *adapters: str, limits: Limits = Limits(), scopes: Any = ("infer",)) -> Key:
    digest = hashlib.sha256(name.encode()).digest()
    return Key(name, digest, frozenset(scopes), frozenset(adapters) or None, limits)


KEYS = (
    key("all"),
    key("admin", scopes=("infer", "admin", "metrics")),
    key("narrow", "chat:sql", "sentiment"),
    key("unclear", "sql"),
    key("base", "small"),
    key("slow", limits=Limits(requests_per_minute=2)),
    key("one", limits=Limits(concurrent=1)),
)


def bearer(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {name}"}


@pytest.fixture
def keyed(tmp_path: Path) -> Iterator[Several]:
    keys = ApiKeys(KEYS)
    with several(write_all(tmp_path), api_keys=keys, adapters_api=True) as served:
        yield served


def ask(served: Several, who: str, model: str) -> Any:
    body = {"model": model, "prompt": "hi"}
    return served.http.post("/v1/completions", json=body, headers=bearer(who))


def test_nobody_enters_without_a_key_and_nothing_is_loaded(keyed: Several) -> None:
    client = TestClient(keyed.app, raise_server_exceptions=False)
    for route in routes_of(keyed.app):
        path = (
            route.path.replace("{model}", "chat")
            .replace("{bundle}", "chat")
            .replace("{", "")
            .replace("}", "")
        )
        for method in route.methods or ():
            answer = client.request(method, path, json={"model": "chat"})
            assert answer.status_code == (200 if path in OPEN_TO_ALL else 401), (method, path)
    assert keyed.opening.opened == []


def test_a_key_for_one_adapter(keyed: Several) -> None:
    """By any name that means this adapter, and none that means another."""
    assert ask(keyed, "narrow", "chat:sql").status_code == 200
    assert ask(keyed, "narrow", "prod").status_code == 404, "an alias has to be listed itself"
    for model in ("small:sql", "sql", "chat", "chat:pirate", "nobody", "base", "texts:topics"):
        refused = ask(keyed, "narrow", model)
        assert refused.status_code == 404
        assert said(refused.json()) == f"no model {model!r} here; served: chat:sql, texts:sentiment"
    assert keyed.loaded == ["chat"]
    classified = {"model": "texts:sentiment", "input": "good"}
    assert keyed.http.post("/v1/classify", json=classified, headers=bearer("narrow")).status_code == 200
    listed = keyed.http.get("/v1/models", headers=bearer("narrow")).json()["data"]
    assert [card["id"] for card in listed] == ["chat:sql", "texts:sentiment"]
    index = keyed.http.post("/v2/repository/index", headers=bearer("narrow")).json()
    assert [one["name"] for one in index] == ["chat", "texts"]
    unnamed = keyed.http.post("/v1/completions", json={"prompt": "x"}, headers=bearer("narrow"))
    assert said(unnamed.json()).endswith("say which model, of chat:sql, texts:sentiment")
    assert keyed.http.get("/v2/models/texts:names", headers=bearer("narrow")).status_code == 404


def test_a_key_for_a_name_that_could_mean_two_opens_neither(keyed: Several) -> None:
    for model in ("sql", "chat:sql", "small:sql"):
        assert ask(keyed, "unclear", model).status_code == 404
    assert keyed.opening.opened == []


def test_a_key_for_a_base(keyed: Several) -> None:
    assert ask(keyed, "base", "small").status_code == 200
    assert ask(keyed, "base", "small:base").status_code == 200
    assert ask(keyed, "base", "chat").status_code == 404
    assert ask(keyed, "base", "small:sql").status_code == 404


def test_a_second_model_in_the_body_is_not_a_way_in(keyed: Several) -> None:
    """Host and bundle read the same of a body that names two models."""
    for first, second in (("chat:sql", "chat"), ("chat", "chat:sql")):
        body = f'{{"model": "{first}", "prompt": "x", "model": "{second}"}}'
        answer = keyed.http.post(
            "/v1/completions",
            content=body,
            headers={**bearer("narrow"), "content-type": "application/json"},
        )
        if answer.status_code == 200:
            assert answer.headers["x-ptune-adapter"].startswith("sql@")
        else:
            assert answer.status_code == 404
    sneaky = keyed.http.post(
        "/v1/completions?model=chat:sql", json={"model": "chat", "prompt": "x"}, headers=bearer("narrow")
    )
    assert sneaky.status_code == 404


def test_limits_count_over_all_bundles(keyed: Several) -> None:
    assert ask(keyed, "slow", "chat").headers["x-ratelimit-remaining-requests"] == "1"
    assert ask(keyed, "slow", "small").status_code == 200
    refused = keyed.http.post(
        "/v1/classify", json={"model": "sentiment", "input": "x"}, headers=bearer("slow")
    )
    assert refused.status_code == 429
    assert keyed.loaded == ["chat", "small"], "who has reached a limit has nothing loaded"


def test_who_waits_for_a_load_counts_as_running(keyed: Several) -> None:
    keyed.opening.go_on.clear()
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(ask, keyed, "one", "chat")
        wait_until(lambda: keyed.opening.opened)
        refused = ask(keyed, "one", "small")
        assert refused.status_code == 429
        assert "1 requests at the same time" in said(refused.json())
        keyed.opening.go_on.set()
        assert waiting.result().status_code == 200
    assert ask(keyed, "one", "small").status_code == 200


def test_only_admins_load_and_unload(keyed: Several) -> None:
    for what in ("load", "unload"):
        path = f"/v2/repository/models/chat/{what}"
        assert keyed.http.post(path, headers=bearer("all")).status_code == 403
        assert keyed.http.post(path, headers=bearer("admin")).status_code == 200
    body = {"model": "chat", "prompt": "hi", "keep_alive": 0}
    assert keyed.http.post("/api/generate", json=body, headers=bearer("all")).status_code == 200
    assert keyed.loaded == ["chat"]


def test_adapters_are_administered_in_the_bundle_that_is_named(keyed: Several) -> None:
    refused = keyed.http.get("/v1/adapters", headers=bearer("admin"))
    assert refused.status_code == 400
    assert "?bundle=" in said(refused.json())
    pointed = keyed.http.post(
        "/v1/adapters/pirate/alias?bundle=chat", json={"alias": "arr"}, headers=bearer("admin")
    )
    assert pointed.status_code == 200, pointed.text
    assert ask(keyed, "all", "chat:arr").json()["choices"][0]["text"] == "pirate heard: hi"
    assert keyed.http.post("/v2/repository/models/chat/unload", headers=bearer("admin")).status_code == 200
    assert ask(keyed, "all", "arr").json()["choices"][0]["text"] == "pirate heard: hi"
    assert keyed.http.get("/v1/aliases?bundle=nobody", headers=bearer("admin")).status_code == 404
    assert keyed.http.get("/v1/adapters?bundle=chat", headers=bearer("all")).status_code == 403


def test_metrics_of_all_bundles(keyed: Several) -> None:
    for model in ("chat:sql", "small", "chat:sql"):
        ask(keyed, "all", model)
    keyed.http.post("/v2/repository/models/small/unload", headers=bearer("admin"))
    text = keyed.http.get("/metrics", headers=bearer("admin")).text
    families = list(text_string_to_metric_families(text))
    names = [family.name for family in families]
    assert len(names) == len(set(names)), "each family stands once"
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }
    loaded = {name: samples["ptune_bundle_loaded", ("bundle", name)] for name in ("chat", "small", "texts")}
    assert loaded == {"chat": 1, "small": 0, "texts": 0}
    assert samples["ptune_bundle_loads_total", ("bundle", "small")] == 1
    assert samples["ptune_bundle_evictions_total", ("bundle", "small"), ("reason", "asked")] == 1
    asked = ("ptune_requests_total", ("adapter", "sql"), ("bundle", "chat"), ("finish", "stop"))
    assert samples[asked] == 2
    assert samples["ptune_http_responses_total", ("route", "/v1/completions"), ("status", "200")] == 3
    assert ("ptune_bundle_loaded", ("bundle", "nobody")) not in samples
    taken = samples["ptune_bundles_taken_bytes",]
    assert taken == samples["ptune_bundle_bytes", ("bundle", "chat")]


def test_a_request_is_logged_once(keyed: Several, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="ptune.serve.access"):
        answer = ask(keyed, "all", "chat:sql")
    records = [record for record in caplog.records if record.name == "ptune.serve.access"]
    assert len(records) == 1
    fields = records[0].__dict__
    assert fields["request_id"] == answer.headers["x-request-id"]
    assert (fields["route"], fields["status"], fields["key"]) == ("/v1/completions", 200, "all")
    assert fields["adapter"] == answer.headers["x-ptune-adapter"]
    assert "hi" not in json.dumps({name: str(value) for name, value in fields.items() if name == "args"})
