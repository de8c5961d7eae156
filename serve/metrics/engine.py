"""Metrics that are read from an engine at each scrape: running and waiting sequences, cache, steps, versions."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Protocol

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from ptune.version import __version__

if TYPE_CHECKING:
    from ptune.engine.adapters.registry import AdapterStats
    from ptune.engine.decoder.cache.block_folder import DiskStats
    from ptune.engine.decoder.engine import Engine
    from ptune.engine.metrics import EngineMetrics, Histogram
    from ptune.formats.bundle import Bundle


class AnyEngine(Protocol):
    """An engine of any kind."""

    metrics: EngineMetrics

    @property
    def bundle(self) -> Bundle: ...


class SequenceCounts(Protocol):
    """Numbers of sequences at one moment."""

    @property
    def running(self) -> int: ...
    @property
    def waiting(self) -> int: ...


class GenerationEngine(AnyEngine, Protocol):
    """An engine that generates token by token."""

    @property
    def adapters(self) -> list[str]: ...
    def adapter_stats(self) -> AdapterStats: ...
    def stats(self) -> SequenceCounts: ...


class SequenceNumbers(Collector):
    """Running and waiting sequences of an engine that generates."""

    def __init__(self, engine: GenerationEngine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        stats = self._engine.stats()
        yield GaugeMetricFamily("ptune_num_requests_running", "Sequences in the running batch", stats.running)
        yield GaugeMetricFamily("ptune_num_requests_waiting", "Sequences that wait", stats.waiting)
        yield _histogram(
            "ptune_request_queue_time_seconds",
            "From submission to a sequence's first step",
            self._engine.metrics.queue_s,
        )


class CacheNumbers(Collector):
    """The KV cache of a decoder."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        stats, metrics = self._engine.stats(), self._engine.metrics
        used, capacity = stats.kv_used_tokens, stats.kv_capacity_tokens
        yield GaugeMetricFamily(
            "ptune_kv_cache_usage_perc", "Used share of the cache, 0 to 1", used / capacity
        )
        yield GaugeMetricFamily("ptune_kv_used_tokens", "Tokens of running sequences in the KV cache", used)
        yield GaugeMetricFamily("ptune_kv_capacity_tokens", "Tokens that fit into its memory", capacity)
        yield GaugeMetricFamily(
            "ptune_kv_resident_bytes",
            "Memory of the KV cache in use, kept prefixes included",
            stats.kv_resident_bytes,
        )
        yield CounterMetricFamily(
            "ptune_kv_window_freed_bytes",
            "Memory of the KV cache that layers with a window gave back while sequences went on",
            stats.slid_bytes,
        )
        yield CounterMetricFamily(
            "ptune_num_preemptions", "Sequences that gave way to others", stats.preempted
        )
        yield CounterMetricFamily(
            "ptune_prefix_cache_queries",
            "Prompt tokens that were looked for in the cache",
            metrics.prompt_tokens,
        )
        yield CounterMetricFamily(
            "ptune_prefix_cache_hits", "Prompt tokens that were found in the cache", stats.reused
        )
        yield CounterMetricFamily(
            "ptune_spec_decode_num_draft_tokens", "Tokens that were drafted", stats.drafted
        )
        yield CounterMetricFamily(
            "ptune_spec_decode_num_accepted_tokens", "Drafted tokens that answers took", stats.accepted
        )
        if stats.disk is not None:
            yield from _disk(stats.disk)


class StepNumbers(Collector):
    """The steps of an engine."""

    def __init__(self, engine: AnyEngine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        metrics = self._engine.metrics
        yield _histogram("ptune_batch_size", "Rows of a step", metrics.batch_size)
        yield _histogram("ptune_step_seconds", "Time of a step", metrics.step_s)
        yield GaugeMetricFamily("ptune_running_step_seconds", "Age of the running step", metrics.running_s)
        yield CounterMetricFamily("ptune_failed_steps", "Steps that failed", metrics.failed)


class BuildInfo(Collector):
    """`ptune_build_info`: versions and the base's hash."""

    def __init__(self, engine: AnyEngine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        try:
            runtime = version("onnxruntime")
        except PackageNotFoundError:  # installed under another name
            runtime = "unknown"
        base = self._engine.bundle.manifest.base
        info = {
            "version": __version__,
            "onnxruntime": runtime,
            "python": platform.python_version(),
            "base": base.source,
            "base_hash": base.hash.rpartition(":")[2][:12],
        }
        yield InfoMetricFamily("ptune_build", "What serves what", value=info)


def _disk(disk: DiskStats) -> Iterator[Metric]:
    """Idle conversations on disk."""
    yield GaugeMetricFamily(
        "ptune_kv_disk_bytes", "Keys and values of idle conversations on disk", disk.bytes
    )
    for name, what, count in (
        ("read", "Tokens whose keys and values were read back from disk", disk.read_tokens),
        ("written", "Tokens whose keys and values were written to disk", disk.written_tokens),
        ("dropped", "Tokens for which the disk was too slow or full", disk.dropped_tokens),
    ):
        yield CounterMetricFamily(f"ptune_kv_disk_{name}_tokens", what, count)
    yield CounterMetricFamily("ptune_kv_disk_damaged", "Files that were not what was written", disk.damaged)


def _histogram(name: str, what: str, tally: Histogram) -> Metric:
    buckets = [("+Inf" if bound == float("inf") else str(bound), count) for bound, count in tally.buckets()]
    return HistogramMetricFamily(name, what, buckets=buckets, sum_value=tally.sum)
