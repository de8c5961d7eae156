"""What is read of Prometheus' text is what its own library wrote."""

from __future__ import annotations

import contextlib
import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from ptune.errors import FormatError
from ptune.studio.serve.exposition import Scrape

BOUNDS = (0.1, 0.5, 1.0, 5.0)
names = st.text(min_size=1, max_size=6)  # label values may hold quotes, backslashes and line breaks


def scraped(registry: CollectorRegistry, at_s: float = 0.0) -> Scrape:
    return Scrape.parsed(generate_latest(registry).decode(), at_s)


@given(st.dictionaries(names, st.lists(st.integers(0, 10**6), min_size=2, max_size=2), max_size=5))
def test_counters_and_their_rates(counts: dict[str, list[int]]) -> None:
    registry = CollectorRegistry()
    requests = Counter("ptune_requests", "Requests", ["adapter", "finish"], registry=registry)
    for name, (first, _) in counts.items():
        requests.labels(name, "stop").inc(first)
        requests.labels(name, "length").inc(1)
    before = scraped(registry, 10.0)
    for name, (_, more) in counts.items():
        requests.labels(name, "stop").inc(more)
    now = scraped(registry, 14.0)
    assert now.values("ptune_requests_total", "adapter") == sorted(counts)
    for name, (first, more) in counts.items():
        assert before.total("ptune_requests_total", adapter=name) == first + 1
        assert now.total("ptune_requests_total", adapter=name, finish="length") == 1
        assert now.rate(before, "ptune_requests_total", adapter=name) == more / 4
    assert now.total("ptune_requests_total") == (
        sum(a + b + 1 for a, b in counts.values()) if counts else None
    )


@given(st.lists(st.floats(0, 8), min_size=1, max_size=60), st.sampled_from([0.25, 0.5, 0.95, 1.0]))
def test_a_quantile_lies_in_the_bucket_of_the_true_one(observed: list[float], share: float) -> None:
    registry = CollectorRegistry()
    latency = Histogram("latency", "Latency", ["adapter"], buckets=BOUNDS, registry=registry)
    for value in observed:
        latency.labels("mine").observe(value)
        latency.labels("other").observe(7.0)
    found = scraped(registry).quantile("latency", share, adapter="mine")
    true = sorted(observed)[math.ceil(share * len(observed)) - 1]
    edges = (0.0, *BOUNDS, math.inf)
    low, high = next((a, b) for a, b in itertools.pairwise(edges) if true <= b)
    assert found is not None
    assert low <= found <= min(high, BOUNDS[-1])


def test_a_restarted_server_has_no_rate() -> None:
    registry = CollectorRegistry()
    other = CollectorRegistry()
    before, after = Counter("n", "n", registry=registry), Counter("n", "n", registry=other)
    before.inc(5)
    after.inc(2)
    assert scraped(other, 2.0).rate(scraped(registry, 1.0), "n_total") is None
    assert scraped(other, 2.0).rate(None, "n_total") is None
    assert scraped(other, 2.0).rate(scraped(other, 2.0), "n_total") is None


def test_what_is_not_there_is_not_zero() -> None:
    scrape = scraped(CollectorRegistry())
    assert scrape.total("n_total") is None
    assert scrape.quantile("latency", 0.5) is None
    assert scrape.labels("n_total") == {}


@given(st.text(max_size=60))
def test_what_is_no_exposition_is_an_error_of_a_sentence(text: str) -> None:
    with contextlib.suppress(FormatError):  # nothing else may come out
        Scrape.parsed(text, 0.0)


def test_html_is_no_exposition() -> None:
    with pytest.raises(FormatError, match="cannot be read"):
        Scrape.parsed("<html>{</html>\n", 0.0)
