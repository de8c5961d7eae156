"""Metrics of the adapters in memory, of either engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from ptune.engine.registry import AdapterStats


class _Engine(Protocol):
    def adapter_stats(self) -> AdapterStats: ...


class AdapterNumbers(Collector):
    """Read from the engine when somebody asks."""

    def __init__(self, engine: _Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        stats = self._engine.adapter_stats()
        yield GaugeMetricFamily("ptune_adapter_bytes", "Memory that adapters take", stats.bytes)
        yield GaugeMetricFamily("ptune_adapters_in_memory", "Adapters in memory", stats.in_memory)
        yield CounterMetricFamily(
            "ptune_adapter_hits", "Requests whose adapter was in memory when they came", stats.hits
        )
        yield CounterMetricFamily("ptune_adapter_loads", "Adapters read from disk", stats.loads)
        yield CounterMetricFamily("ptune_adapter_load_seconds", "Time that reading them took", stats.load_s)
