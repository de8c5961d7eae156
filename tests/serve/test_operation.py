"""What an operator sees: models, health, readiness, metrics, keys."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from openai.types import Model
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient
from support.fake_chat_model import FakeChatModel, wait_until

from ptune.errors import RequestError, UsageError
from ptune_serve.access.auth import ApiKeys
from ptune_serve.app import create_app
from ptune_serve.service import Settings


def test_models(served):
    listed = served.http.get("/v1/models").json()
    assert listed["object"] == "list"
    models = [Model.model_validate(model, strict=True) for model in listed["data"]]
    assert [model.id for model in models] == ["base", "pirate", "devil"]
    assert [model["parent"] for model in listed["data"]] == [None, "base", "base"]
    for model in listed["data"]:
        assert served.http.get(f"/v1/models/{model['id']}").json() == model
        assert model["max_model_len"] == served.engine.context


def test_an_adapter_that_bears_the_bundles_name_is_not_hidden(served):
    served.engine.adapters = ["dictionary"]
    served.engine.bundle.manifest.adapters["dictionary"] = "ee" * 32
    assert served.http.get("/v1/models/dictionary").json()["parent"] == "base"


def test_health_and_readiness(served):
    assert served.http.get("/health").status_code == 200
    assert served.http.get("/ready").status_code == 200
    served.service.draining = True
    assert served.http.get("/health").status_code == 200
    for response in (served.http.get("/ready"), served.chat(), served.complete("x")):
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "shutting_down"
        assert response.headers["retry-after"]


def test_metrics_count_what_happened(served):
    before = samples(served)
    served.chat("abc", model="devil")
    served.chat("abc", model="devil", max_tokens=2, stream=True)
    after = samples(served)

    def grown(name: str, **labels: str) -> float:
        key = (name, *sorted({"adapter": "devil", **labels}.items()))
        return after[key] - before.get(key, 0)

    answer = len("devil heard: abc") + 1
    assert grown("ptune_requests_total", finish="stop") == 1
    assert grown("ptune_requests_total", finish="length") == 1
    assert grown("ptune_prompt_tokens_total") == 2 * len("<user>abc")
    assert grown("ptune_generation_tokens_total") == answer + 2
    assert grown("ptune_time_to_first_token_seconds_count") == 2
    assert grown("ptune_inter_token_latency_seconds_count") == answer - 1 + 1
    assert after[("ptune_kv_used_tokens",)] == 7
    assert after[("ptune_kv_capacity_tokens",)] == 70
    assert after[("ptune_kv_resident_bytes",)] == 8192
    assert after[("ptune_kv_window_freed_bytes_total",)] == 12288
    disk = {
        name: after[(f"ptune_kv_disk_{name}",)] for name in ("bytes", "read_tokens_total", "damaged_total")
    }
    assert disk == {"bytes": 4096, "read_tokens_total": 512, "damaged_total": 1}
    assert after[("ptune_spec_decode_num_draft_tokens_total",)] == 8
    assert after[("ptune_spec_decode_num_accepted_tokens_total",)] == 5
    assert after[("ptune_num_requests_running",)] == 0
    assert after[("ptune_kv_cache_usage_perc",)] == 0.1


def test_metrics_count_who_went_away(served):
    served.engine.may_end = 0
    body = {"model": "pirate", "messages": [{"role": "user", "content": "x"}], "stream": True}
    key = ("ptune_requests_total", ("adapter", "pirate"), ("finish", "cancelled"))
    before = samples(served).get(key, 0)
    with httpx.stream("POST", f"{served.url}/v1/chat/completions", json=body) as response:
        next(response.iter_raw())
    wait_until(lambda: samples(served).get(key, 0) == before + 1)


def test_metrics_hold_nothing_that_a_client_made_up(served):
    served.chat(model="made-up")
    assert "made-up" not in served.http.get("/metrics").text


def samples(served) -> dict[tuple[Any, ...], float]:
    families = text_string_to_metric_families(served.http.get("/metrics").text)
    return {(s.name, *sorted(s.labels.items())): s.value for family in families for s in family.samples}


def test_each_response_has_its_own_id(served):
    ids = {
        served.http.get(path).headers["x-request-id"]
        for path in ("/health", "/v1/models", "/nothing", "/health")
    }
    assert len(ids) == 4


KEYED = ["/v1/models", "/v1/models/base", "/metrics"]


@pytest.fixture(scope="module")
def keyed():
    return TestClient(create_app(FakeChatModel(), Settings(api_keys=ApiKeys(("alpha", "clé-β")))))


@pytest.mark.parametrize(
    "header",
    [None, "alpha", "Bearer", "Bearer ", "Bearer alph", "Bearer alphaa", "Basic alpha", "Bearer \xff"],
)
def test_no_entry_without_a_key(keyed, header):
    headers = {} if header is None else {"authorization": header.encode("latin-1")}
    for path in KEYED:
        assert keyed.get(path, headers=headers).status_code == 401
    for path in ("/v1/chat/completions", "/v1/completions"):
        response = keyed.post(path, headers=headers, content=b"not even JSON")
        assert response.status_code == 401
        assert response.json()["error"]["type"] == "authentication_error"
        assert response.headers["www-authenticate"] == "Bearer"


def test_entry_with_a_key(keyed):
    for key in ("alpha", "clé-β"):
        for path in KEYED:
            assert keyed.get(path, headers={"authorization": f"Bearer {key}".encode()}).status_code == 200
    for path in ("/health", "/ready"):
        assert keyed.get(path).status_code == 200


def test_keys_come_from_a_file(tmp_path):
    path = tmp_path / "keys"
    path.write_text("# for the team\n\n  alpha  \nbeta\n", encoding="utf-8")
    keys = ApiKeys.read(path)
    keys.check("Bearer alpha")
    keys.check("bearer beta")
    for wrong in ("Bearer # for the team", "Bearer gamma", None):
        with pytest.raises(RequestError):
            keys.check(wrong)


@pytest.mark.parametrize("content", [b"", b"# nothing\n\n", b"\xff\xfe"])
def test_a_file_without_keys_does_not_open_the_door(tmp_path, content):
    path = tmp_path / "keys"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="keys"):
        ApiKeys.read(path)
    with pytest.raises(UsageError, match="missing"):
        ApiKeys.read(tmp_path / "missing")


def test_keys_are_not_logged(keyed, caplog):
    with caplog.at_level("DEBUG"):
        keyed.get("/v1/models", headers={"authorization": "Bearer alpha"})
        keyed.get("/v1/models", headers={"authorization": "Bearer wrong-key"})
    assert "alpha" not in caplog.text
    assert "wrong-key" not in caplog.text
