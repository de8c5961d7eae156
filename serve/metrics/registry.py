"""Prometheus metrics under vLLM's names with the prefix `ptune_`, in a registry of their own.

Labels are adapters that exist, a limited number of them, never what a client sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from ptune.formats.adapter_sum import AdapterSum

from .adapter_labels import AdapterLabels
from .adapters import AdapterNumbers
from .engine import BuildInfo, CacheNumbers, GenerationEngine, SequenceNumbers, StepNumbers
from .responses import Responses

if TYPE_CHECKING:
    from ptune.engine.decoder.engine import Engine

_FIRST_TOKEN_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_BETWEEN_TOKENS_S = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2)
_WHOLE_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
SUM = "sum"
FINISHES = ("stop", "length", "cancelled", "error")


class SequenceMetrics:
    """Counters that the calls feed, and gauges that are read from the engine at each scrape."""

    def __init__(self, engine: GenerationEngine) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "ptune_requests", "Sequences finished, by reason", ["adapter", "finish"], registry=registry
        )
        self.prompt_tokens = Counter("ptune_prompt_tokens", "Prompt tokens", ["adapter"], registry=registry)
        self.generated_tokens = Counter(
            "ptune_generation_tokens", "Generated tokens", ["adapter"], registry=registry
        )
        self.whole_s = self._histogram(
            "ptune_e2e_request_latency_seconds", "From submission to the end of a sequence", _WHOLE_S
        )
        self.responses = Responses(registry)
        self._engine = engine
        self._labels = AdapterLabels(lambda: engine.adapters, self._forget)
        registry.register(SequenceNumbers(engine))
        registry.register(StepNumbers(engine))
        registry.register(AdapterNumbers(engine))
        registry.register(BuildInfo(engine))

    def label(self, adapter: str) -> str:
        """The label of an adapter: its name, or "other" if there are too many; of a sum, whose factors clients choose, "sum"."""
        is_sum = AdapterSum.parsed(adapter) is not None and adapter not in self._engine.adapters
        return self._labels.of(SUM if is_sum else adapter)

    def ended(self, adapter: str, finish: str, seconds: float) -> None:
        """Counts a finished sequence. seconds: since its submission."""
        label = self.label(adapter)
        self.requests.labels(label, finish).inc()
        self.whole_s.labels(label).observe(seconds)

    def exposition(self) -> bytes:
        """The text format that Prometheus scrapes."""
        return generate_latest(self.registry)

    def _histogram(self, name: str, what: str, bounds: tuple[float, ...]) -> Histogram:
        return Histogram(name, what, ["adapter"], buckets=bounds, registry=self.registry)

    def _forget(self, adapter: str) -> None:
        """Removes the metrics of an adapter that is no longer served."""
        for metric in (self.prompt_tokens, self.generated_tokens, self.whole_s):
            metric.remove(adapter)
        for finish in FINISHES:
            self.requests.remove(adapter, finish)


class Metrics(SequenceMetrics):
    """Metrics of a causal language model, whose tokens are sent as they arrive."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.first_token_s = self._histogram(
            "ptune_time_to_first_token_seconds", "From submission to the first token", _FIRST_TOKEN_S
        )
        self.between_tokens_s = self._histogram(
            "ptune_inter_token_latency_seconds", "Between two tokens of a sequence", _BETWEEN_TOKENS_S
        )
        self.registry.register(CacheNumbers(engine))

    def _forget(self, adapter: str) -> None:
        for histogram in (self.first_token_s, self.between_tokens_s):
            histogram.remove(adapter)
        super()._forget(adapter)
