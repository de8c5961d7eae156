"""Metrics of replicas, added up: sums of what grows and of sizes, and nothing lost with a replica that ends."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from ptune_serve.cluster.exposition import Totals


def exposed(requests: int, *, seconds: float = 0.2, used: float = 0.5, step_s: float = 0.0) -> bytes:
    registry = CollectorRegistry()
    counter = Counter("ptune_requests", 'Requests \\ "so far"', ["adapter"], registry=registry)
    counter.labels('a"b\\c\nd').inc(requests)
    Histogram("ptune_step_seconds", "Steps", buckets=(0.1, 1), registry=registry).observe(seconds)
    Gauge("ptune_num_requests_running", "Running", registry=registry).set(requests)
    Gauge("ptune_kv_cache_usage_perc", "Share", registry=registry).set(used)
    Gauge("ptune_running_step_seconds", "Age", registry=registry).set(step_s)
    return generate_latest(registry)


def samples(text: bytes) -> dict[str, float]:
    """By name, and a histogram's bucket."""
    found = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            assert sample.name.startswith(family.name)
            assert family.documentation
            found[sample.name + sample.labels.get("le", "")] = sample.value
    return found


def test_the_sum_over_replicas() -> None:
    found = samples(
        Totals().of({"a": exposed(2, used=0.5, step_s=3), "b": exposed(5, seconds=0.05, used=0.1)})
    )
    assert found["ptune_requests_total"] == 7
    assert found["ptune_num_requests_running"] == 7
    assert found["ptune_kv_cache_usage_perc"] == 0.3
    assert found["ptune_running_step_seconds"] == 3
    assert (found["ptune_step_seconds_bucket0.1"], found["ptune_step_seconds_bucket+Inf"]) == (1, 2)
    assert found["ptune_step_seconds_count"] == 2
    assert not [name for name in found if name.endswith("_created")]


def test_labels_come_through_as_they_were() -> None:
    [family] = [
        family
        for family in text_string_to_metric_families(Totals().of({"a": exposed(1)}).decode())
        if family.name == "ptune_requests"
    ]
    assert family.documentation == 'Requests \\ "so far"'
    assert family.samples[0].labels == {"adapter": 'a"b\\c\nd'}


def test_what_a_replica_has_counted_outlives_it() -> None:
    totals = Totals()
    totals.of({"a": exposed(2), "b": exposed(5)})
    for _ in range(2):
        found = samples(totals.of({"a": exposed(3)}))
        assert found["ptune_requests_total"] == 8
        assert found["ptune_num_requests_running"] == 3
        assert found["ptune_step_seconds_count"] == 2
    assert samples(totals.of({}))["ptune_requests_total"] == 8


def test_a_replica_that_missed_a_scrape_counts_once() -> None:
    totals = Totals()
    totals.of({"a": exposed(2), "b": exposed(5)})
    totals.of({"a": exposed(2)})
    assert samples(totals.of({"a": exposed(2), "b": exposed(6)}))["ptune_requests_total"] == 8


def test_replicas_that_are_long_gone_take_no_memory() -> None:
    totals = Totals()
    for number in range(150):
        found = totals.of({f"replica-{number}": exposed(1)})
    assert samples(found)["ptune_requests_total"] == 150
    assert len(totals._last) <= 101
