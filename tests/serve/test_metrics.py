"""Metrics as Prometheus reads them, and log lines as a machine does."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from support.fake_chat_model import FakeChatModel, serving, wait_until
from support.http_client import Client
from support.living_adapters import PROMPT, completed, living, token_ids

import ptune
from ptune.engine.metrics import EngineMetrics, Histogram
from ptune_serve.app import create_app
from ptune_serve.http.json_log import JsonLines
from ptune_serve.metrics.adapter_labels import MAX_LABELS, AdapterLabels
from ptune_serve.service import Settings

Samples = dict[tuple[Any, ...], float]


def samples(http: Client) -> Samples:
    families = text_string_to_metric_families(http.get("/metrics").text)
    return {(s.name, *sorted(s.labels.items())): s.value for family in families for s in family.samples}


def samples_at_rest(http: Client) -> Samples:
    """Once the engine has left the last sequence, which may be just after its client has the answer."""
    wait_until(lambda: samples(http)[("ptune_num_requests_running",)] == 0)
    return samples(http)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A server over a tiny bundle whose two adapters do not fit into memory together."""
    there = living(tmp_path_factory.mktemp("metrics"))
    model = ptune.load(there.folder, threads=1, max_rows=2, adapter_bytes=50_000)
    with TestClient(create_app(model)) as http:
        yield http
    model.close()


def test_an_engines_numbers(real: TestClient) -> None:
    before, found = samples(real), list[int]()
    for adapter in ("base", "base", "wide", "narrow", "wide"):
        answer = completed(real, adapter)
        assert len(token_ids(answer)) == 6
        found.append(answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"])
    assert found[1] == len(PROMPT) - 1, "all but the last, which is computed again"
    after = samples_at_rest(real)

    def grown(name: str, **labels: str) -> float:
        key = (name, *sorted(labels.items()))
        return after[key] - before.get(key, 0)

    for name in ("time_to_first_token_seconds", "e2e_request_latency_seconds"):
        assert grown(f"ptune_{name}_count", adapter="wide") == 2
        assert grown(f"ptune_{name}_bucket", adapter="wide", le="+Inf") == 2
    assert grown("ptune_inter_token_latency_seconds_count", adapter="narrow") == 5
    assert grown("ptune_generation_tokens_total", adapter="base") == 12
    assert grown("ptune_requests_total", adapter="base", finish="length") == 2
    assert grown("ptune_request_queue_time_seconds_count") == 5
    assert grown("ptune_prefix_cache_queries_total") == 5 * len(PROMPT)
    assert grown("ptune_prefix_cache_hits_total") == sum(found)
    assert grown("ptune_batch_size_sum") == grown("ptune_batch_size_count") >= 25, "one row, a step a token"
    assert grown("ptune_step_seconds_count") == grown("ptune_batch_size_count")
    assert grown("ptune_adapter_loads_total") == 2, "narrow, and wide again"
    assert grown("ptune_adapter_evictions_total") == 2
    assert grown("ptune_http_responses_total", route="/v1/completions", status="200") == 5
    assert after[("ptune_failed_steps_total",)] == after[("ptune_running_step_seconds",)] == 0
    assert after[("ptune_kv_cache_usage_perc",)] == after[("ptune_num_requests_running",)] == 0


def test_what_a_gateway_asks_for(served: Any) -> None:
    """The Kubernetes inference gateway's protocol: queue, running, cache, and adapters in the labels of one series."""
    families = {
        family.name: family for family in text_string_to_metric_families(served.http.get("/metrics").text)
    }
    for name in ("num_requests_waiting", "num_requests_running", "kv_cache_usage_perc", "lora_requests_info"):
        assert families[f"ptune_{name}"].type == "gauge"
    [info] = families["ptune_lora_requests_info"].samples
    assert info.labels == {
        "max_lora": "2",
        "running_lora_adapters": "devil,pirate",
        "waiting_lora_adapters": "late",
    }
    assert info.value > 1.7e9, "a time"
    [build] = families["ptune_build_info" if "ptune_build_info" in families else "ptune_build"].samples
    assert build.labels["version"] == ptune.__version__
    assert build.labels["base_hash"] == "0123456789ab"


def test_the_histograms_have_vllms_names(served: Any) -> None:
    served.chat("abc")
    families = {
        family.name: family for family in text_string_to_metric_families(served.http.get("/metrics").text)
    }
    for name in ("time_to_first_token", "inter_token_latency", "e2e_request_latency", "request_queue_time"):
        assert families[f"ptune_{name}_seconds"].type == "histogram"


def test_refusals_are_counted_by_route(served: Any) -> None:
    before = samples(served.http)
    served.chat(model="made-up")
    served.http.get("/v1/models/what-a-client-made-up")
    served.http.get("/what-a-client-made-up")
    served.service.draining = True
    served.chat()
    after = samples(served.http)
    for route, status in (
        ("/v1/chat/completions", "404"),
        ("/v1/chat/completions", "503"),
        ("/v1/models/{model}", "404"),
        ("unknown", "404"),
    ):
        key = ("ptune_http_responses_total", ("route", route), ("status", status))
        assert after[key] == before.get(key, 0) + 1
    assert "made-up" not in served.http.get("/metrics").text


def test_a_tally_is_a_cumulative_histogram() -> None:
    tally = Histogram([1, 2.5])
    for value in (0.5, 1, 1.5, 2.5, 9):
        tally.add(value)
    assert tally.buckets() == [(1, 2), (2.5, 4), (float("inf"), 5)]
    assert (tally.count, tally.sum) == (5, 14.5)


def test_adapters_that_come_and_go_do_not_fill_the_metrics() -> None:
    served: list[str] = []
    gone: list[str] = []
    labels = AdapterLabels(lambda: served, gone.append)
    for number in range(3 * MAX_LABELS):
        served[:] = [f"version-{number}"]
        assert labels.of(served[0]) == served[0]
    assert len(gone) >= 2 * MAX_LABELS - 1
    served[:] = [f"standing-{number}" for number in range(2 * MAX_LABELS)]
    found = [labels.of(name) for name in served]
    assert len({*found}) <= MAX_LABELS + 1
    assert found[-1] == "other"
    assert [labels.of(name) for name in served] == found


def test_removed_adapters_leave_the_exposition() -> None:
    model = FakeChatModel()
    app = create_app(model, Settings())
    metrics = app.state.service.metrics
    model.engine.adapters = []
    for number in range(MAX_LABELS + 50):
        metrics.ended(f"gone-{number}", "stop", 1.0)
        metrics.prompt_tokens.labels(metrics.label(f"gone-{number}")).inc()
    text = metrics.exposition().decode()
    assert 'adapter="gone-149"' in text
    assert 'adapter="gone-0"' not in text


def test_steps_that_fail_are_told_from_requests_that_do() -> None:
    metrics = EngineMetrics()
    for number in range(3):
        assert not metrics.broken, number
        with pytest.raises(OSError), metrics.step(2):
            raise OSError
    assert metrics.broken
    with metrics.step(1):
        assert metrics.running_s >= 0
    assert not metrics.broken
    assert (metrics.failed, metrics.step_s.count, metrics.running_s) == (3, 4, 0)


@pytest.mark.parametrize("given", ["abc-1", "A.b:c_9", "x" * 128])
def test_a_clients_request_id_is_taken(served: Any, given: str) -> None:
    response = served.http.post(
        "/v1/chat/completions",
        json={"model": "base", "messages": [{"role": "user", "content": "x"}]},
        headers={"x-request-id": given},
    )
    assert response.headers["x-request-id"] == given
    assert response.json()["id"] == f"chatcmpl-{given}"


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "é", 'a"b', "a\tb", "{}"])
def test_another_request_id_is_replaced(served: Any, given: str) -> None:
    response = served.http.get("/health", headers={"x-request-id": given.encode()})
    assert response.headers["x-request-id"].isalnum()
    assert len(response.headers["x-request-id"]) == 32


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """The access log as `--log-json` writes it."""
    written: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            written.append(self.format(record))

    handler, log = Kept(), logging.getLogger("ptune.serve")
    handler.setFormatter(JsonLines())
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield written
    log.removeHandler(handler)
    log.setLevel(logging.NOTSET)


def test_a_request_is_one_line_of_json(lines: list[str]) -> None:
    with serving(create_app(FakeChatModel())) as url:
        body = {"model": "pirate", "messages": [{"role": "user", "content": "a secret"}]}
        httpx.post(f"{url}/v1/chat/completions", json=body, headers={"x-request-id": "id-1"})
        httpx.get(f"{url}/v1/secret?key=secret", headers={"x-request-id": "id-2"})
    first, second = (json.loads(line) for line in lines)
    assert first["request_id"] == "id-1"
    assert first["route"] == "/v1/chat/completions"
    assert (first["method"], first["status"], first["level"]) == ("POST", 200, "info")
    assert first["adapter"] == "pirate@abababababab"
    assert first["seconds"] > 0
    assert (second["request_id"], second["status"]) == ("id-2", 404)
    assert "secret" not in "".join(lines)


def test_a_defect_is_a_line_that_quotes_nobody(lines: list[str]) -> None:
    model = FakeChatModel()
    model.engine.failure = "submit"
    with serving(create_app(model)) as url:
        body = {"model": "pirate", "messages": [{"role": "user", "content": "a secret"}]}
        httpx.post(f"{url}/v1/chat/completions", json=body, headers={"x-request-id": "id-3"})
    failure, request = (json.loads(line) for line in lines)
    assert (failure["level"], failure["request_id"]) == ("error", "id-3")
    assert "ZeroDivisionError" in failure["message"]
    assert (request["status"], request["request_id"]) == (500, "id-3")
    assert "secret" not in "".join(lines)


def test_an_exceptions_words_stay_out_of_the_json_log() -> None:
    try:
        raise ValueError("a secret")
    except ValueError as error:
        info = (type(error), error, error.__traceback__)
    record = logging.LogRecord("ptune", logging.ERROR, str(Path(__file__)), 1, "it failed", (), info)
    line = JsonLines().format(record)
    assert json.loads(line)["error"] == "ValueError"
    assert "a secret" not in json.loads(line)["message"] + json.loads(line)["error"]
