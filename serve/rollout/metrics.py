"""Prometheus metrics of the trials that run."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .evidence import PairedLosses
from .trials import Trials


class TrialMetrics(Collector):
    """What each trial has found so far, and how many were decided."""

    def __init__(self, trials: Trials) -> None:
        self._trials = trials

    def collect(self) -> Iterator[Metric]:
        """For Prometheus."""
        running = list(self._trials.running.items())
        each = ["alias", "adapter"]
        count = GaugeMetricFamily("ptune_rollout_scores", "Scores in the running trial", labels=each)
        lower = GaugeMetricFamily("ptune_rollout_lower", "lower bound of the mean score", labels=each)
        upper = GaugeMetricFamily("ptune_rollout_upper", "upper bound of the mean score", labels=each)
        for alias, trial in running:
            for adapter, scores in () if trial.users is None else trial.users.of.items():
                count.add_metric([alias, adapter], scores.count)
                lower.add_metric([alias, adapter], scores.lower)
                upper.add_metric([alias, adapter], scores.upper)
        yield from (count, lower, upper)
        yield from _of_losses([(alias, trial.loss) for alias, trial in running if trial.loss is not None])
        decided = CounterMetricFamily("ptune_rollouts", "Canaries decided", labels=["decision"])
        for decision, times in self._trials.decided.items():
            decided.add_metric([decision.replace(" ", "_")], times)
        yield decided


def _of_losses(running: list[tuple[str, PairedLosses]]) -> Iterator[Metric]:
    texts = GaugeMetricFamily(
        "ptune_rollout_texts", "Held-out texts compared in the running trial", labels=["alias"]
    )
    left = GaugeMetricFamily(
        "ptune_rollout_texts_left", "Held-out texts that are still to be compared", labels=["alias"]
    )
    loss = GaugeMetricFamily(
        "ptune_rollout_loss", "Loss on the held-out texts, in nats per token", labels=["alias", "adapter"]
    )
    difference = {
        side: GaugeMetricFamily(
            f"ptune_rollout_loss_difference{suffix}",
            f"{side} of the canary's loss minus the adapter's, per text",
            labels=["alias"],
        )
        for side, suffix in (("mean", ""), ("lower bound", "_lower"), ("upper bound", "_upper"))
    }
    for alias, losses in running:
        texts.add_metric([alias], losses.difference.count)
        left.add_metric([alias], losses.left)
        for adapter, nats in losses.per_token().items():
            loss.add_metric([alias, adapter], nats)
        found = losses.difference
        for family, value in zip(difference.values(), (found.mean, found.lower, found.upper), strict=True):
            if value is not None:
                family.add_metric([alias], value)
    yield from (texts, left, loss, *difference.values())
