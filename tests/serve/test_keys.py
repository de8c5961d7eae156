"""Keys: the file's forms, scopes, what a key may ask for, and the file read again while the server runs."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient
from support.app_routes import routes_of
from support.error_forms import said
from support.fake_chat_model import FakeChatModel, FakeEngine
from support.fake_encoder_model import FakeEncoderModel

from ptune.errors import RequestError, UsageError
from ptune.formats.bundle import Alias
from ptune_serve.access import auth
from ptune_serve.access.auth import ApiKeys
from ptune_serve.access.keys import ALL, ANYBODY, Key, Limits, plain, read
from ptune_serve.app import create_app, create_encoder_app
from ptune_serve.service import Settings

SECRET = "correct-horse-battery-staple"
HASH = hashlib.sha256(SECRET.encode()).hexdigest()
TOML = f"""
[[keys]]
name = "alice"
sha256 = "{HASH}"
scopes = ["infer", "admin"]
adapters = ["pirate", "prod"]
requests_per_minute = 60
tokens_per_minute = 1_000
concurrent = 4
weight = 2

[[keys]]
name = "bob"
key = "bobs-own-key"
"""
LINES = "\n".join(
    [
        json.dumps(
            {
                "name": "alice",
                "sha256": HASH.upper(),
                "scopes": ["infer", "admin"],
                "adapters": ["pirate", "prod"],
                "requests_per_minute": 60,
                "tokens_per_minute": 1000,
                "concurrent": 4,
                "weight": 2.0,
            }
        ),
        "# a comment",
        json.dumps({"name": "bob", "key": "bobs-own-key"}),
    ]
)


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("text", [TOML, LINES], ids=["toml", "json lines"])
def test_a_file_says_what_each_key_may_do(tmp_path, text):
    alice, bob = read(written(tmp_path / "keys", text)).keys
    assert alice == Key(
        "alice",
        hashlib.sha256(SECRET.encode()).digest(),
        frozenset({"infer", "admin"}),
        frozenset({"pirate", "prod"}),
        Limits(requests_per_minute=60, tokens_per_minute=1000, concurrent=4),
        2.0,
    )
    assert (bob.scopes, bob.adapters, bob.limits, bob.weight) == (frozenset({"infer"}), None, Limits(), 1.0)
    assert bob.digest == hashlib.sha256(b"bobs-own-key").digest()


def test_one_key_a_line_may_do_everything(tmp_path):
    first, second = read(written(tmp_path / "keys", "alpha\n\n# more\n  beta=\n")).keys
    assert first.scopes == second.scopes == ALL
    assert first.name != second.name
    assert "alpha" not in repr(first) + first.name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("two words", "keys:1"),
        ('[[keys]]\nname = "a"', "either key or sha256"),
        (f'[[keys]]\nname = "a"\nkey = "k"\nsha256 = "{HASH}"', "either key or sha256"),
        ('[[keys]]\nname = "a b"\nkey = "k"', "name"),
        ('[[keys]]\nname = "a"\nkey = "k"\nscope = ["infer"]', "scope"),
        ('[[keys]]\nname = "a"\nkey = "k"\nscopes = ["root"]', "scopes.0"),
        ('[[keys]]\nname = "a"\nkey = "k"\nscopes = []', "scopes"),
        ('[[keys]]\nname = "a"\nkey = "k"\nadapters = []', "adapters"),
        ('[[keys]]\nname = "a"\nkey = "k"\nconcurrent = 0', "concurrent"),
        ('[[keys]]\nname = "a"\nkey = "k"\nweight = inf', "weight"),
        ('[[keys]]\nname = "a"\nkey = "k"\ntokens_per_minute = "many"', "tokens_per_minute"),
        ('[[keys]]\nname = "a"\nkey = "k"\n[[keys]]\nname = "a"\nkey = "l"', "same name"),
        ('[[keys]]\nname = "a"\nkey = "k"\n[[keys]]\nname = "b"\nkey = "k"', "same key"),
        ("[[keys]]\nname", "not valid TOML"),
        ('[[other]]\nname = "a"', "only tables called"),
        ('{"name": "a", "key": "k"}\n{"name"', "keys:2: not valid JSON"),
        ("k\nk", "same name"),
        ("{}", "name"),
    ],
)
def test_a_damaged_file_is_refused_without_its_secrets(tmp_path, text, message):
    with pytest.raises(UsageError) as raised:
        read(written(tmp_path / "keys", text))
    assert message in str(raised.value)
    assert "'k'" not in str(raised.value)
    assert HASH not in str(raised.value)


@settings(max_examples=200)
@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda raw: raw.decode("latin-1")))
def test_any_file_is_read_or_refused(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any-keys"
    path.write_text(text, encoding="utf-8", newline="")
    with contextlib.suppress(UsageError):
        assert read(path).keys


def test_who_else_can_read_the_file_is_warned_of(tmp_path, caplog):
    path = tmp_path / "keys"
    for text, mode, warned in (
        ("alpha", 0o600, ""),
        ("alpha", 0o644, "can read"),
        ("alpha", 0o640, ""),
        (f'[[keys]]\nname = "a"\nsha256 = "{HASH}"', 0o644, ""),
        (f'[[keys]]\nname = "a"\nsha256 = "{HASH}"', 0o646, "can change"),
    ):
        path.write_text(text, encoding="utf-8")
        path.chmod(mode)
        caplog.clear()
        ApiKeys.read(path)
        assert (warned in caplog.text) if warned else not caplog.text, (text, oct(mode))
        assert "alpha" not in caplog.text


def test_hashes_are_compared_and_in_constant_time(monkeypatch):
    """All of them, each by hmac.compare_digest: neither how near a guess is nor its place can be timed."""
    compared: list[tuple[bytes, bytes]] = []

    def recording(given: bytes, known: bytes) -> bool:
        compared.append((given, known))
        return hmac.compare_digest(given, known)

    monkeypatch.setattr(auth, "hmac", SimpleNamespace(compare_digest=recording))
    keys = ApiKeys(("alpha", "beta", "gamma"))
    for attempt in ("alpha", "gamma", "alph", "x" * 5000, "ü"):
        compared.clear()
        with contextlib.suppress(RequestError):
            keys.check(f"Bearer {attempt}")
        assert {len(value) for pair in compared for value in pair} == {32}
        assert len(compared) == 3


def test_without_keys_everybody_is_let_in():
    assert ApiKeys().check(None) is ANYBODY


# What a key may do.

PEOPLE = (
    Key("reader", plain("infer").digest, frozenset({"infer"})),
    Key("chief", plain("admin").digest, frozenset({"admin"})),
    Key("scraper", plain("metrics").digest, frozenset({"metrics"})),
    Key("narrow", plain("narrow").digest, frozenset({"infer"}), frozenset({"pirate", "prod", "gone"})),
)


@pytest.fixture
def engine():
    return FakeEngine()


@pytest.fixture
def keyed(engine):
    engine.bundle.manifest.aliases = {"prod": Alias(name="devil"), "other": Alias(name="pirate")}
    app = create_app(FakeChatModel(engine), Settings(api_keys=ApiKeys(PEOPLE), adapters_api=True))
    return TestClient(app, raise_server_exceptions=False)


SCOPES = [
    ("GET", "/v1/models", {"infer", "narrow"}),
    ("GET", "/v1/models/pirate", {"infer", "narrow"}),
    ("POST", "/v1/chat/completions", {"infer", "narrow"}),
    ("POST", "/v1/completions", {"infer", "narrow"}),
    ("POST", "/v1/messages", {"infer", "narrow"}),
    ("POST", "/v1/messages/count_tokens", {"infer", "narrow"}),
    ("POST", "/v1/responses", {"infer", "narrow"}),
    ("GET", "/v1/responses/resp_1", {"infer", "narrow"}),
    ("DELETE", "/v1/responses/resp_1", {"infer", "narrow"}),
    ("POST", "/v1/responses/resp_1/cancel", {"infer", "narrow"}),
    ("GET", "/v1/files", {"infer", "narrow"}),
    ("POST", "/v1/files", {"infer", "narrow"}),
    ("GET", "/v1/files/file-1", {"infer", "narrow"}),
    ("DELETE", "/v1/files/file-1", {"infer", "narrow"}),
    ("GET", "/v1/files/file-1/content", {"infer", "narrow"}),
    ("GET", "/v1/batches", {"infer", "narrow"}),
    ("POST", "/v1/batches", {"infer", "narrow"}),
    ("POST", "/v1/feedback", {"infer", "narrow"}),
    ("GET", "/v1/batches/batch_1", {"infer", "narrow"}),
    ("POST", "/v1/batches/batch_1/cancel", {"infer", "narrow"}),
    ("POST", "/api/chat", {"infer", "narrow"}),
    ("POST", "/api/generate", {"infer", "narrow"}),
    ("POST", "/api/show", {"infer", "narrow"}),
    ("GET", "/api/tags", {"infer", "narrow"}),
    ("GET", "/api/version", {"infer", "narrow"}),
    ("POST", "/tokenize", {"infer", "narrow"}),
    ("POST", "/detokenize", {"infer", "narrow"}),
    ("GET", "/tokenizer_info", {"infer", "narrow"}),
    ("POST", "/v1/translate", {"infer", "narrow"}),
    ("GET", "/metrics", {"metrics", "admin"}),
    ("GET", "/v1/adapters", {"admin"}),
    ("POST", "/v1/adapters", {"admin"}),
    ("DELETE", "/v1/adapters/pirate", {"admin"}),
    ("POST", "/v1/adapters/pirate/alias", {"admin"}),
    ("GET", "/v1/aliases", {"admin"}),
    ("POST", "/v1/aliases/prod/rollback", {"admin"}),
    ("DELETE", "/v1/aliases/prod", {"admin"}),
    ("POST", "/v1/load_lora_adapter", {"admin"}),
    ("POST", "/v1/unload_lora_adapter", {"admin"}),
]


@pytest.mark.parametrize(("method", "path", "allowed"), SCOPES)
def test_scopes(keyed, method, path, allowed):
    assert keyed.request(method, path, content=b"x").status_code == 401
    for secret in ("infer", "admin", "metrics", "narrow"):
        response = keyed.request(method, path, headers=bearer(secret), content=b"x")
        if secret in allowed:
            assert response.status_code not in (401, 403), (secret, response.text)
        else:
            assert response.status_code == 403, secret
            assert "lacks the scope" in said(response.json())
            assert "insufficient_scope" in response.headers["www-authenticate"]


PLACES = {
    "model": "pirate",
    "name": "pirate",
    "alias": "prod",
    "response_id": "resp_1",
    "file_id": "file-1",
    "batch_id": "batch_1",
}


NAMELESS = {"/v1/feedback", "/v1/files", "/v1/batches", "/v1/batches/{batch_id}/cancel"}
"""Posts that name no model; what they ask in the end is in test_batches.py."""


def test_the_scopes_of_every_guarded_route_are_tried(keyed):
    """That each is guarded at all is held by test_every_route.py."""
    routes = {
        (method, route.path.format(**PLACES))
        for route in routes_of(keyed.app)
        for method in route.methods or ()
    }
    assert {(method, path) for method, path, _ in SCOPES} == {
        (method, path) for method, path in routes if path not in ("/health", "/ready", "/openapi.json")
    }


def test_models_are_those_a_key_may_ask_for(keyed):
    def listed(secret: str) -> list[str]:
        return [card["id"] for card in keyed.get("/v1/models", headers=bearer(secret)).json()["data"]]

    assert listed("infer") == ["base", "pirate", "devil", "prod", "other"]
    assert listed("narrow") == ["pirate", "prod"]


BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}]},
    "/v1/completions": {"prompt": "hi"},
    "/v1/messages": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9},
    "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": "hi"}]},
    "/v1/responses": {"input": "hi"},
    "/api/chat": {"messages": [{"role": "user", "content": "hi"}]},
    "/api/generate": {"prompt": "hi"},
    "/api/show": {},
    "/tokenize": {"prompt": "hi"},
    "/detokenize": {"tokens": [65]},
    "/v1/translate": {"text": "hi"},
}


def test_every_endpoint_that_a_narrow_key_may_use_is_asked_for_what_it_may_not():
    asked = {path for method, path, who in SCOPES if method == "POST" and "narrow" in who}
    nameless = {path.format(**PLACES) for path in NAMELESS}
    assert set(BODIES) == asked - nameless - {"/v1/responses/resp_1/cancel"}


@pytest.mark.parametrize(
    "model", ["devil", "base", "dictionary", "dictionary:devil", "other", "made-up", "gone"]
)
def test_what_a_key_may_not_ask_for_is_as_if_it_did_not_exist(keyed, model):
    """The same status, code and words, so that the names of other people's adapters cannot be found out."""
    answers = [
        keyed.post(path, json={"model": model, **body}, headers=bearer("narrow"))
        for path, body in BODIES.items()
    ]
    answers += [
        keyed.get(f"/v1/models/{model}", headers=bearer("narrow")),
        keyed.get("/tokenizer_info", params={"model": model}, headers=bearer("narrow")),
    ]
    for response in answers:
        assert response.status_code == 404
        assert said(response.json()) == f"no model {model!r} here; served: pirate, prod"
        assert "x-ptune-adapter" not in response.headers


def test_an_alias_is_allowed_by_its_own_name(keyed):
    body = {"model": "prod", "messages": [{"role": "user", "content": "hi"}]}
    response = keyed.post("/v1/chat/completions", json=body, headers=bearer("narrow"))
    assert response.json()["choices"][0]["message"]["content"] == "devil heard: hi"


def test_the_engine_learns_whose_request_it_is(engine):
    heavy = Key("heavy", plain("heavy").digest, weight=3.0)
    client = TestClient(create_app(FakeChatModel(engine), Settings(api_keys=ApiKeys((heavy,)))))
    messages = [{"role": "user", "content": "hi"}]
    client.post(
        "/v1/chat/completions",
        json={"model": "base", "messages": messages, "user": "x"},
        headers=bearer("heavy"),
    )
    client.post("/v1/completions", json={"model": "base", "prompt": "x"}, headers=bearer("heavy"))
    assert [(request.tenant, request.weight) for request in engine.requests] == [("heavy", 3.0)] * 2


ENCODERS: dict[str, dict[str, Any]] = {
    "/v1/classify": {"input": "x"},
    "/v1/tag": {"input": "x"},
    "/v1/embeddings": {"input": "x"},
    "/api/embed": {"input": "x"},
    "/api/show": {},
    "/v1/rerank": {"query": "x", "documents": ["y"]},
    "/v1/recommend": {"history": ["x"]},
    "/v1/recommend/items": {"query": "x"},
}


def test_an_encoder_keeps_to_a_keys_adapters_at_every_endpoint():
    """LiteLLM has forgotten one of its routes: so they are taken from the app's own list."""
    narrow = Key("narrow", plain("narrow").digest, frozenset({"infer"}), frozenset({"sentiment"}))
    client = TestClient(create_encoder_app(FakeEncoderModel(), Settings(api_keys=ApiKeys((narrow,)))))
    client.headers.update(bearer("narrow"))
    posts = [path for path, kinds in client.get("/openapi.json").json()["paths"].items() if "post" in kinds]
    in_path = [path for path in posts if "{model}" in path]
    assert set(posts) - set(in_path) == {*ENCODERS, *NAMELESS}
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["x"]}
    for model in ("topics", "names", "made-up", "base"):
        answers = [client.post(path, json={"model": model, **ENCODERS[path]}) for path in ENCODERS]
        paths = [path.format(model=model, version="1") for path in in_path]
        answers += [client.post(path, json={"inputs": [tensor]}) for path in paths]
        answers += [client.get(path.removesuffix("/infer")) for path in paths]
        answers += [client.get(path.replace("/infer", "/ready")) for path in paths]
        for response in answers:
            assert response.status_code == 404
            assert said(response.json()) == f"no model {model!r} here; served: sentiment"
    assert client.post("/v1/classify", json={"model": "sentiment", "input": "x"}).status_code == 200
    assert [card["id"] for card in client.get("/v1/models").json()["data"]] == ["sentiment"]


def test_an_encoders_tokens_are_counted():
    key = Key("few", plain("few").digest, limits=Limits(tokens_per_minute=10))
    clock = SimpleNamespace(now_s=0.0)
    keys = ApiKeys((key,), clock=lambda: clock.now_s)
    client = TestClient(create_encoder_app(FakeEncoderModel(), Settings(api_keys=keys)))
    client.headers.update(bearer("few"))
    body = {"model": "sentiment", "input": ["one two three four", "five six seven eight"]}
    usage = client.post("/v1/classify", json=body).json()["usage"]["total_tokens"]
    assert usage == 8
    refused = client.post("/v1/classify", json=body)
    assert refused.status_code == 429
    assert refused.headers["x-ratelimit-remaining-tokens"] == "2"
    assert refused.headers["retry-after"] == str(6 * 60 // 10)  # until there are 8
