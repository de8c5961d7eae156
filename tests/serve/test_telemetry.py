"""OpenTelemetry against a receiver of its own wire format: what is sent of a request, and what never is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import httpx
import openai
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from support.fake_chat_model import FakeChatModel, serving

from ptune.errors import UsageError
from ptune_serve.app import create_app
from ptune_serve.http.telemetry import telemetry
from ptune_serve.service import Settings

MESSAGES: dict[str, Any] = {
    "/v1/traces": ExportTraceServiceRequest,
    "/v1/metrics": ExportMetricsServiceRequest,
}
SECRET = "my secret question"
TRACE = "0af7651916cd43dd8448eb211c80319c"


class Collector(ThreadingHTTPServer):
    """Keeps what it is sent, by path."""

    def __init__(self) -> None:
        self.bodies: list[tuple[str, bytes]] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def spans(self) -> list[Any]:
        return [
            span
            for path, body in self.bodies
            if path == "/v1/traces"
            for resource in MESSAGES[path].FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def histograms(self) -> dict[str, Any]:
        return {
            metric.name: metric.histogram.data_points
            for path, body in self.bodies
            if path == "/v1/metrics"
            for resource in MESSAGES[path].FromString(body).resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.bodies.append((self.path, body))  # type: ignore[attr-defined]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with Collector() as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        # the exporters read the process's environment themselves
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
        yield server
        server.shutdown()
        thread.join()


def attributes(told: Any) -> dict[str, Any]:
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in told.attributes}


def ask(url: str, ask_more: bool = True) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
        question: Any = [{"role": "user", "content": SECRET}]
        parent = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
        client.chat.completions.create(model="pirate", messages=question, extra_headers=parent)
        for _ in client.chat.completions.create(model="pirate", messages=question, stream=True):
            pass
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model=SECRET, messages=question)
    httpx.get(f"{url}/{SECRET}")


def test_a_span_for_each_request(collector: Collector) -> None:
    told = telemetry()
    assert told is not None
    with serving(create_app(FakeChatModel(), Settings(telemetry=told))) as url:
        ask(url)
    told.close()
    whole, stream, unknown, no_route = collector.spans()
    common = {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "url.scheme": "http",
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "ptune",
        "gen_ai.request.model": "pirate",
        "gen_ai.usage.input_tokens": len(f"<user>{SECRET}"),
        "gen_ai.usage.output_tokens": len(f"pirate heard: {SECRET}") + 1,
    }
    for span in (whole, stream):
        found = attributes(span)
        assert found.pop("gen_ai.response.model").startswith("pirate@")
        assert found.pop("gen_ai.response.id")
        found.pop("ptune.key")
        assert found == common
        assert span.name == "POST /v1/chat/completions"
        assert span.start_time_unix_nano < span.events[0].time_unix_nano <= span.end_time_unix_nano
        assert [event.name for event in span.events] == ["first token"]
    assert whole.trace_id.hex() == TRACE
    assert stream.trace_id.hex() != TRACE
    assert attributes(unknown)["error.type"] == "404"
    assert "gen_ai.request.model" not in attributes(unknown)
    assert no_route.name == "HTTP"
    assert attributes(no_route)["http.response.status_code"] == 404
    assert all(SECRET.encode() not in body for _, body in collector.bodies)


def test_histograms_by_model(collector: Collector) -> None:
    told = telemetry()
    with serving(create_app(FakeChatModel(), Settings(telemetry=told))) as url:
        ask(url)
    assert told is not None
    told.close()
    found = collector.histograms()
    counts = {
        name: {
            attributes(point).get("gen_ai.request.model", attributes(point).get("error.type")): point.count
            for point in points
        }
        for name, points in found.items()
    }
    assert counts == {
        "gen_ai.server.request.duration": {"pirate": 2, "404": 1},
        "gen_ai.server.time_to_first_token": {"pirate": 2},
        "gen_ai.server.time_per_output_token": {"pirate": 2},
    }


def test_nothing_is_sent_where_nothing_is_set() -> None:
    assert telemetry({}) is None
    assert telemetry({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "true"}) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("OTEL_TRACES_EXPORTER", "zipkin"), ("OTEL_METRICS_EXPORTER", "statsd"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "json")],
)  # fmt: skip
def test_what_is_not_built_is_named(name: str, value: str) -> None:
    with pytest.raises(UsageError, match=rf"{name} must be .* \(is '{value}'\)"):
        telemetry({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", name: value})


def test_a_collector_that_is_not_there_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")  # s, instead of 10
    told = telemetry()
    with serving(create_app(FakeChatModel(), Settings(telemetry=told))) as url:
        ask(url)
    assert told is not None
    told.close()


def test_a_server_without_it_does_not_import_it() -> None:
    code = "import sys, ptune_serve.lifecycle; sys.exit('opentelemetry.sdk' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
