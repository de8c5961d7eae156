"""Prometheus metrics of all bundles: each bundle's own under the label `bundle`, and when bundles come and go."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, get_args

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ..metrics.responses import NAME as COUNTED_HERE
from ..metrics.responses import Responses
from .table import Why

if TYPE_CHECKING:
    from .bundles import Bundles


class HostMetrics:
    """The metrics of a server with several bundles."""

    def __init__(self, bundles: Bundles) -> None:
        self.registry = CollectorRegistry()
        self.responses = Responses(self.registry)
        self.registry.register(_Table(bundles))
        self.registry.register(_OfBundles(bundles))

    def exposition(self) -> bytes:
        """The text format that Prometheus scrapes."""
        return generate_latest(self.registry)


class _Table(Collector):
    def __init__(self, bundles: Bundles) -> None:
        self._table = bundles.table

    def collect(self) -> Iterator[Metric]:
        loaded = GaugeMetricFamily(
            "ptune_bundle_loaded", "1 if a bundle is loaded, else 0", labels=["bundle"]
        )
        size = GaugeMetricFamily(
            "ptune_bundle_bytes", "Memory that a bundle takes, or will take", labels=["bundle"]
        )
        using = GaugeMetricFamily(
            "ptune_bundle_requests", "Requests that use a bundle or wait for it", labels=["bundle"]
        )
        loads = CounterMetricFamily("ptune_bundle_loads", "Times that a bundle was loaded", labels=["bundle"])
        load_s = CounterMetricFamily(
            "ptune_bundle_load_seconds", "Time that loading it took", labels=["bundle"]
        )
        failures = CounterMetricFamily("ptune_bundle_load_failures", "Loads that failed", labels=["bundle"])
        unloads = CounterMetricFamily(
            "ptune_bundle_evictions",
            "Times that a bundle was unloaded: to make room, being idle, or asked to",
            labels=["bundle", "reason"],
        )
        for entry in self._table:
            loaded.add_metric([entry.name], entry.state == "loaded")
            size.add_metric([entry.name], entry.needed_bytes)
            using.add_metric([entry.name], entry.users)
            loads.add_metric([entry.name], entry.loads)
            load_s.add_metric([entry.name], entry.load_s)
            failures.add_metric([entry.name], entry.failures)
            for why in get_args(Why):
                unloads.add_metric([entry.name, why], entry.unloads[why])
        yield from (loaded, size, using, loads, load_s, failures, unloads)
        yield GaugeMetricFamily(
            "ptune_bundles_taken_bytes", "Memory that all loaded bundles take", self._table.taken_bytes
        )
        yield GaugeMetricFamily(
            "ptune_bundles_budget_bytes", "Memory that bundles may take together", self._table.budget_bytes
        )


class _OfBundles(Collector):
    """Each loaded bundle's metrics. A family stands only once in Prometheus' format, with the samples of all bundles."""

    def __init__(self, bundles: Bundles) -> None:
        self._table = bundles.table

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for entry in self._table:
            if entry.loaded is None:
                continue
            for metric in entry.loaded.service.metrics.registry.collect():
                if metric.name == COUNTED_HERE:
                    continue
                family = families.setdefault(
                    metric.name, Metric(metric.name, metric.documentation, metric.type, metric.unit)
                )
                family.samples += [
                    sample._replace(labels={"bundle": entry.name, **sample.labels})
                    for sample in metric.samples
                ]
        yield from families.values()
