"""OpenTelemetry: a span and three histograms for each request, sent where the standard environment variables say.

Names follow the semantic conventions for HTTP servers and for generative AI. Neither holds what was asked or answered.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ptune.errors import UsageError
from ptune.version import __version__

from .context import RequestContext

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.trace import TracerProvider

Usage = Mapping[str, int]
"""OpenAI's `usage`; empty where no token was computed."""


_ENDPOINTS = (
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
)
_OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
    "/api/chat": "chat",
    "/v1/completions": "text_completion",
    "/api/generate": "text_completion",
    "/v1/embeddings": "embeddings",
    "/api/embed": "embeddings",
}
_TRANSPORTS = {"http/protobuf": "http", "grpc": "grpc"}
_FLUSH_LIMIT_MS = 3000  # at the end, for a collector that does not answer

# The bounds in seconds that the conventions advise.
_DURATIONS = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92]
_FIRST_TOKENS = [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0]
_PER_TOKEN = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5]


@dataclass(frozen=True)
class Answered:
    """One request that has ended.

    method, route: None if the path is not one of the server's. began_ns: by the clock, since 1970. first_token_s,
    seconds: from there to the first token, if there was one, and to the end. headers: what the client sent.
    """

    method: str | None
    route: str | None
    status: int
    began_ns: int
    first_token_s: float | None
    seconds: float
    headers: Mapping[str, str]

    def at(self, seconds: float) -> int:
        """A moment after the beginning, in nanoseconds since 1970."""
        return self.began_ns + round(1e9 * seconds)


class Telemetry:
    """Sends what is told of each request, on threads of its own. One that cannot be sent is dropped."""

    def __init__(self, traces: TracerProvider | None, metrics: MeterProvider | None) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._propagator = TraceContextTextMapPropagator()
        self._traces, self._metrics = traces, metrics
        self._tracer = None if traces is None else traces.get_tracer("ptune", __version__)
        meter = None if metrics is None else metrics.get_meter("ptune", __version__)

        def seconds(name: str, bounds: list[float]) -> Any:
            """bounds: of the histogram's buckets."""
            if meter is None:
                return None
            named = f"gen_ai.server.{name}"
            return meter.create_histogram(named, "s", explicit_bucket_boundaries_advisory=bounds)

        self._duration = seconds("request.duration", _DURATIONS)
        self._first_token = seconds("time_to_first_token", _FIRST_TOKENS)
        self._per_token = seconds("time_per_output_token", _PER_TOKEN)

    def tell(self, request: Answered, context: RequestContext) -> None:
        """Makes the span of a request, and counts it."""
        described = _generative(request, context)
        usage = {} if context.call is None else context.call.usage()
        if self._tracer is not None:
            self._span(request, context, usage, described)
        if self._metrics is not None and described:
            self._measure(request, usage, described)

    def _span(
        self, request: Answered, context: RequestContext, usage: Usage, described: Mapping[str, Any]
    ) -> None:
        from opentelemetry.trace import SpanKind, Status, StatusCode

        assert self._tracer is not None
        attributes = {
            "http.request.method": request.method or "_OTHER",
            "http.route": request.route,
            "http.response.status_code": request.status,
            "url.scheme": "http",
            "gen_ai.response.id": context.request_id,
            "gen_ai.usage.input_tokens": usage.get("prompt_tokens"),
            "gen_ai.usage.output_tokens": usage.get("completion_tokens"),
            "ptune.key": context.key and context.key.name,
            **described,
        }
        span = self._tracer.start_span(
            " ".join(filter(None, (request.method or "HTTP", request.route))),
            context=self._propagator.extract(request.headers),
            kind=SpanKind.SERVER,
            attributes={name: value for name, value in attributes.items() if value is not None},
            start_time=request.began_ns,
        )
        if request.first_token_s is not None:
            span.add_event("first token", timestamp=request.at(request.first_token_s))
        if request.status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        span.end(request.at(request.seconds))

    def _measure(self, request: Answered, usage: Usage, described: Mapping[str, Any]) -> None:
        self._duration.record(request.seconds, described)
        if request.first_token_s is None or request.status != 200:
            return
        self._first_token.record(request.first_token_s, described)
        after_first = usage.get("completion_tokens", 0) - 1
        if after_first > 0:
            self._per_token.record((request.seconds - request.first_token_s) / after_first, described)

    def close(self) -> None:
        """Sends what is left."""
        if self._traces is not None:
            self._traces.force_flush(_FLUSH_LIMIT_MS)
            self._traces.shutdown()
        if self._metrics is not None:
            self._metrics.shutdown(_FLUSH_LIMIT_MS)


def _generative(request: Answered, context: RequestContext) -> dict[str, Any]:
    """What the conventions for generative AI tell of a request; nothing where it is none."""
    operation = _OPERATIONS.get(request.route or "")
    if operation is None:
        return {}
    told = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "ptune",
        "gen_ai.request.model": context.asked_for,
        "gen_ai.response.model": context.answered_by,
        "error.type": str(request.status) if request.status >= 400 else None,
    }
    return {name: value for name, value in told.items() if value is not None}


def telemetry(environment: Mapping[str, str] = os.environ) -> Telemetry | None:
    """What the environment asks for; None = nothing. Raises: UsageError if it cannot be had."""
    off = environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if off or not any(environment.get(name) for name in _ENDPOINTS):
        return None
    wanted = [signal for signal in ("TRACES", "METRICS") if _sends(environment, signal)]
    try:
        return Telemetry(
            _traces(environment) if "TRACES" in wanted else None,
            _metrics(environment) if "METRICS" in wanted else None,
        )
    except ImportError as error:
        raise UsageError(
            f"OTEL_EXPORTER_OTLP_ENDPOINT is set, but {error.name} is missing: pip install 'ptune[otel]', or unset it"
        ) from None


def _sends(environment: Mapping[str, str], signal: str) -> bool:
    exporter = environment.get(f"OTEL_{signal}_EXPORTER", "otlp")
    if exporter not in ("otlp", "none"):
        raise UsageError(f"OTEL_{signal}_EXPORTER must be otlp or none (is {exporter!r})")
    return exporter == "otlp"


def _exporter(environment: Mapping[str, str], signal: str) -> Any:
    """The module that sends a signal, TRACES or METRICS, by the protocol that is asked for."""
    general = environment.get("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    protocol = environment.get(f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", general)
    if protocol not in _TRANSPORTS:
        raise UsageError(f"OTEL_EXPORTER_OTLP_PROTOCOL must be http/protobuf or grpc (is {protocol!r})")
    kind = signal.removesuffix("S").lower()
    return importlib.import_module(
        f"opentelemetry.exporter.otlp.proto.{_TRANSPORTS[protocol]}.{kind}_exporter"
    )


def _resource(environment: Mapping[str, str]) -> Any:
    from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource

    named = {} if environment.get("OTEL_SERVICE_NAME") else {SERVICE_NAME: "ptune"}
    return Resource.create({**named, SERVICE_VERSION: __version__})


def _traces(environment: Mapping[str, str]) -> TracerProvider:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=_resource(environment), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(_exporter(environment, "TRACES").OTLPSpanExporter()))
    return provider


def _metrics(environment: Mapping[str, str]) -> MeterProvider:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    reader = PeriodicExportingMetricReader(_exporter(environment, "METRICS").OTLPMetricExporter())
    return MeterProvider([reader], resource=_resource(environment), shutdown_on_exit=False)
