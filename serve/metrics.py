"""Prometheus metrics, in a registry of their own. Labels are adapters that exist, never what a client sent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .adapter_metrics import AdapterNumbers

if TYPE_CHECKING:
    from ptune.engine.engine import Engine

_FIRST_TOKEN_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_BETWEEN_TOKENS_S = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2)


class Metrics:
    """Counters that the endpoints feed, and gauges that are read from the engine when somebody asks."""

    def __init__(self, engine: Engine) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "ptune_requests", "Sequences finished, by reason", ["adapter", "finish"], registry=registry
        )
        self.prompt_tokens = Counter("ptune_prompt_tokens", "Prompt tokens", ["adapter"], registry=registry)
        self.generated_tokens = Counter(
            "ptune_generated_tokens", "Generated tokens", ["adapter"], registry=registry
        )
        self.first_token_s = Histogram(
            "ptune_time_to_first_token_seconds",
            "From submission to the first token",
            ["adapter"],
            buckets=_FIRST_TOKEN_S,
            registry=registry,
        )
        self.between_tokens_s = Histogram(
            "ptune_inter_token_seconds",
            "Between two tokens of a sequence",
            ["adapter"],
            buckets=_BETWEEN_TOKENS_S,
            registry=registry,
        )
        registry.register(_EngineGauges(engine))
        registry.register(AdapterNumbers(engine))

    def exposition(self) -> bytes:
        """The text format that Prometheus scrapes."""
        return generate_latest(self._registry)


class _EngineGauges(Collector):
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        stats = self._engine.stats()
        yield GaugeMetricFamily("ptune_running", "Sequences in the running batch", stats.running)
        yield GaugeMetricFamily("ptune_waiting", "Sequences that wait for a place", stats.waiting)
        yield GaugeMetricFamily("ptune_kv_used_tokens", "Tokens held in the KV cache", stats.kv_used_tokens)
        yield GaugeMetricFamily("ptune_kv_capacity_tokens", "Tokens that fit", stats.kv_capacity_tokens)
