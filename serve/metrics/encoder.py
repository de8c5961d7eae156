"""Prometheus metrics of an encoder. Labels are adapters and endpoints that exist, never what a client sent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .adapters import AdapterNumbers
from .engine import BuildInfo, StepNumbers
from .responses import Responses

if TYPE_CHECKING:
    from ptune.engine.encoder.engine import EncoderEngine

_SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class EncoderMetrics:
    """Counters that the calls feed, and gauges that are read from the engine at each scrape."""

    def __init__(self, engine: EncoderEngine) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "ptune_requests",
            "Requests by how they ended: done, refused, failed, cancelled",
            ["endpoint", "adapter", "ending"],
            registry=registry,
        )
        self.inputs = Counter(
            "ptune_inputs", "Texts and images of requests", ["endpoint", "adapter"], registry=registry
        )
        self.seconds = Histogram(
            "ptune_request_seconds",
            "From a request's whole body to its answer",
            ["endpoint"],
            buckets=_SECONDS,
            registry=registry,
        )
        registry.register(_EngineNumbers(engine))
        registry.register(AdapterNumbers(engine))
        registry.register(StepNumbers(engine))
        registry.register(BuildInfo(engine))
        self.responses = Responses(registry)

    def exposition(self) -> bytes:
        """The text format that Prometheus scrapes."""
        return generate_latest(self.registry)


class _EngineNumbers(Collector):
    def __init__(self, engine: EncoderEngine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        stats = self._engine.stats()
        yield GaugeMetricFamily("ptune_num_requests_running", "Inputs in the running pass", stats.running)
        yield GaugeMetricFamily("ptune_num_requests_waiting", "Inputs that wait for a pass", stats.waiting)
        yield CounterMetricFamily("ptune_passes", "Passes of the encoder", stats.passes)
        yield CounterMetricFamily(
            "ptune_batch_rows", "Inputs of all passes; over ptune_passes: the mean batch size", stats.rows
        )
        yield CounterMetricFamily("ptune_tokens", "Tokens of all passes, without padding", stats.tokens)
