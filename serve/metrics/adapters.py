"""Metrics of the adapters in memory, for any engine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from ptune.engine.adapters.registry import AdapterStats


_LISTED = 200  # names in a label, the most recently used first


class _Engine(Protocol):
    def adapter_stats(self) -> AdapterStats: ...


class AdapterNumbers(Collector):
    """Reads the engine at each scrape."""

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
        yield CounterMetricFamily("ptune_adapter_evictions", "Adapters that made room", stats.evictions)
        yield _lora_info(stats)


def _lora_info(stats: AdapterStats) -> Metric:
    """As vLLM's `lora_requests_info`, by which a gateway finds a server with the adapter in memory; its value is the time."""
    info = GaugeMetricFamily(
        "ptune_lora_requests_info",
        "Adapters at hand and wanted; the value is the time",
        labels=["max_lora", "running_lora_adapters", "waiting_lora_adapters"],
    )
    listed = [",".join(names[:_LISTED]) for names in (stats.names, stats.wanted)]
    info.add_metric([str(_max_in_memory(stats)), *listed], time.time())
    return info


def _max_in_memory(stats: AdapterStats) -> int:
    """Estimates how many adapters fit into memory, from those that are in it."""
    if stats.limit_bytes is None or not stats.in_memory or not stats.bytes:
        return stats.served
    return max(stats.in_memory, stats.limit_bytes * stats.in_memory // stats.bytes)
