"""Names that stand for adapters: switched, rolled back, shared with a canary, and kept over a restart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from support.http_client import Client, Response
from support.living_adapters import Living, completed, living, token_ids, upload

import ptune
from ptune.errors import RequestError
from ptune.formats.bundle import Alias, Bundle, Canary
from ptune_serve.adapters.aliases import NO_CALLER, resolve_alias, rolled_back, switched, users_of, without
from ptune_serve.app import create_app
from ptune_serve.service import Settings

TRIAL = {"prod": Alias(name="a", canary=Canary(name="b", share=0.1))}


def test_the_share_is_that_of_the_keys_and_each_key_keeps_its_adapter() -> None:
    keys = [f"user {number}" for number in range(20_000)]
    answers = [resolve_alias(TRIAL, "prod", key) for key in keys]
    assert answers == [resolve_alias(TRIAL, "prod", key) for key in keys]
    assert 0.09 < answers.count("b") / len(keys) < 0.11
    assert resolve_alias(TRIAL, "prod", NO_CALLER) == "a"
    assert resolve_alias(TRIAL, "a", "user 1") == "a"
    other = {"prod": TRIAL["prod"], "test": TRIAL["prod"]}
    assert answers != [resolve_alias(other, "test", key) for key in keys], "other aliases try other users"


@given(st.text(min_size=1), st.floats(0.001, 0.999), st.floats(0.001, 0.999))
def test_a_larger_share_takes_nobody_back(key: str, one: float, other: float) -> None:
    small, large = sorted((one, other))
    found = [
        resolve_alias({"x": Alias(name="a", canary=Canary(name="b", share=share))}, "x", key)
        for share in (small, large)
    ]
    assert found != ["b", "a"]


def test_switched_and_rolled_back() -> None:
    first = switched(None, "a", None)
    assert first == Alias(name="a")
    with pytest.raises(RequestError, match="nothing to roll back to"):
        rolled_back("prod", first)
    second = switched(first, "b", None)
    assert second == Alias(name="b", previous="a")
    tried = switched(second, "b", Canary(name="c", share=0.5))
    assert (tried.name, tried.previous) == ("b", "a")
    assert rolled_back("prod", tried) == Alias(name="a", previous="b")
    assert rolled_back("prod", switched(first, "a", Canary(name="c", share=0.5))) == Alias(name="a")
    assert users_of({"x": tried}, "c") == users_of({"x": tried}, "b") == ["x"]
    assert without({"x": second}, "a") == {"x": Alias(name="b")}


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Living:
    return living(tmp_path_factory.mktemp("aliases"))


@contextmanager
def serving(there: Living) -> Iterator[Client]:
    model = ptune.load(there.folder, threads=1, max_rows=4)
    try:
        with TestClient(create_app(model, Settings(adapters_api=True))) as http:
            yield http
    finally:
        model.close()


def point(http: Client, name: str, alias: str = "prod", **fields: Any) -> Response:
    return http.post(f"/v1/adapters/{name}/alias", json={"alias": alias, **fields})


def test_over_http_from_switch_to_rollback_and_restart(there: Living) -> None:
    with serving(there) as http:
        assert point(http, "wide").json() == {
            "object": "alias", "alias": "prod", "name": "wide", "canary": None, "previous": None,
        }  # fmt: skip
        answer = completed(http, "prod")
        assert token_ids(answer) == there.greedy("wide")
        assert answer.json()["model"] == "prod"
        assert answer.headers["x-ptune-adapter"].startswith("wide@")
        assert point(http, "narrow").json()["previous"] == "wide"
        assert token_ids(completed(http, "prod")) == there.greedy("narrow")
        assert http.post("/v1/aliases/prod/rollback").json()["name"] == "wide"
        assert completed(http, "prod").headers["x-ptune-adapter"].startswith("wide@")
        share = {"name": "narrow", "share": 0.5}
        assert point(http, "wide", canary=share).json()["canary"] == share
        users = [f"user {number}" for number in range(24)]
        answered = {user: completed(http, "prod", 1, user=user).headers["x-ptune-adapter"] for user in users}
        seeded = {
            completed(http, "prod", 1, seed=seed).headers["x-ptune-adapter"].partition("@")[0]
            for seed in range(16)
        }
        alone = {completed(http, "prod", 1).headers["x-ptune-adapter"].partition("@")[0] for _ in range(30)}
        assert {name.partition("@")[0] for name in answered.values()} == seeded == alone == {"wide", "narrow"}
        tokenized = http.post("/tokenize", json={"model": "prod", "prompt": "x"})
        assert tokenized.headers["x-ptune-adapter"].startswith("wide@")
        in_use = http.delete("/v1/adapters/narrow")
        assert in_use.status_code == 409
        assert "prod" in in_use.json()["error"]["message"]
        models = {one["id"]: one for one in http.get("/v1/models").json()["data"]}
        assert models["prod"]["parent"] == "wide"
        assert http.get("/v1/models/prod").json() == models["prod"]
        assert [one["aliases"] for one in http.get("/v1/adapters").json()["data"]] == [["prod"], ["prod"]]
    with serving(there) as http:  # a restart
        for user, name in answered.items():
            assert completed(http, "prod", 1, user=user).headers["x-ptune-adapter"] == name
        assert http.post("/v1/aliases/prod/rollback").json() == {
            "object": "alias", "alias": "prod", "name": "narrow", "canary": None, "previous": "wide",
        }  # fmt: skip
        assert http.delete("/v1/aliases/prod").json()["deleted"] is True
        assert completed(http, "prod").status_code == 404
        assert http.get("/v1/aliases").json()["data"] == []
    assert Bundle.open(there.folder).manifest.aliases == {}


def test_an_adapter_comes_with_its_alias(there: Living) -> None:
    with serving(there) as http:
        point(http, "wide", "live")
        folder = there.adapter("next", seed=3)
        assert upload(http, folder, "next", alias="live").json()["aliases"] == ["live"]
        assert token_ids(completed(http, "live")) == there.greedy("next")
        assert upload(http, folder, "same", alias="same").json()["error"]["code"] == "name_taken"
        assert upload(http, folder, "other", alias="wide").json()["error"]["code"] == "name_taken"
        assert http.post("/v1/aliases/live/rollback").json()["name"] == "wide"
        http.delete("/v1/adapters/next")
        [left] = http.get("/v1/aliases").json()["data"]
        assert (left["name"], left["previous"]) == ("wide", None)
        assert upload(http, folder, "live").json()["error"]["code"] == "name_taken"
        http.delete("/v1/aliases/live")


@pytest.mark.parametrize(
    ("name", "fields", "status"),
    [
        ("gone", {}, 404),
        ("base", {}, 400),
        ("wide", {"alias": "narrow"}, 409),
        ("wide", {"alias": "base"}, 400),
        ("wide", {"alias": 3}, 400),
        ("wide", {"canary": {"name": "gone", "share": 0.5}}, 404),
        ("wide", {"canary": {"name": "wide", "share": 0.5}}, 400),
        ("wide", {"canary": {"name": "narrow", "share": 0}}, 400),
        ("wide", {"canary": {"name": "narrow", "share": 1.0}}, 400),
        ("wide", {"canary": {"name": "narrow", "share": True}}, 400),
        ("wide", {"canary": {"name": "narrow"}}, 400),
    ],
)
def test_what_an_alias_cannot_be(
    there: Living, refusing: Client, name: str, fields: Any, status: int
) -> None:
    response = refusing.post(f"/v1/adapters/{name}/alias", json={"alias": "prod", **fields})
    assert response.status_code == status, response.text
    assert refusing.get("/v1/aliases").json()["data"] == []
    for path in ("/v1/aliases/gone/rollback", "/v1/aliases/wide/rollback"):
        assert refusing.post(path).json()["error"]["code"] == "alias_not_found"
    assert refusing.delete("/v1/aliases/gone").status_code == 404


@pytest.fixture(scope="module")
def refusing(there: Living) -> Iterator[Client]:
    with serving(there) as http:
        yield http
