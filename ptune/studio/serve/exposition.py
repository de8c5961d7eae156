"""What a server's /metrics say, and what has happened between two looks at them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from ptune.errors import FormatError

Labels = frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Scrape:
    """All samples of one look. at_s: when, in seconds of a clock that never goes back."""

    at_s: float
    samples: Mapping[tuple[str, Labels], float] = field(default_factory=dict)

    @classmethod
    def parsed(cls, text: str, at_s: float) -> Scrape:
        """Reads Prometheus' text format. Raises: FormatError."""
        try:
            found = {
                (sample.name, frozenset(sample.labels.items())): float(sample.value)
                for family in text_string_to_metric_families(text)
                for sample in family.samples
            }
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise FormatError(f"the metrics cannot be read: {error}") from None
        return cls(at_s, found)

    def total(self, name: str, **labels: str) -> float | None:
        """The sum of a metric's samples that have these labels; None if there are none."""
        asked = {*labels.items()}
        values = [value for (one, has), value in self.samples.items() if one == name and asked <= has]
        return math.fsum(values) if values else None

    def values(self, name: str, label: str) -> list[str]:
        """The values that a label of a metric has."""
        return sorted({dict(has)[label] for one, has in self.samples if one == name and label in dict(has)})

    def labels(self, name: str) -> dict[str, str]:
        """The labels of a metric's first sample; empty if there is none."""
        return next((dict(has) for one, has in self.samples if one == name), {})

    def since(self, before: Scrape | None, name: str, **labels: str) -> float | None:
        """By how much a counter has grown since an earlier look; None if that is not known, as after a restart."""
        now = self.total(name, **labels)
        if before is None or now is None or self.at_s <= before.at_s:
            return None
        grown = now - (before.total(name, **labels) or 0.0)
        return grown if grown >= 0 else None

    def rate(self, before: Scrape | None, name: str, **labels: str) -> float | None:
        """The same per second."""
        grown = self.since(before, name, **labels)
        return None if grown is None or before is None else grown / (self.at_s - before.at_s)

    def quantile(self, name: str, share: float, **labels: str) -> float | None:
        """About which value a share of a histogram's observations does not exceed, as Prometheus' histogram_quantile
        interpolates within a bucket; None if there are none."""
        counts: dict[float, float] = {}
        for le in self.values(f"{name}_bucket", "le"):
            counts[float(le)] = self.total(f"{name}_bucket", le=le, **labels) or 0.0
        bounds = sorted(counts)
        if not bounds or counts[bounds[-1]] <= 0:
            return None
        wanted, low, below = share * counts[bounds[-1]], 0.0, 0.0
        for bound in bounds:
            if counts[bound] >= wanted and counts[bound] > below:
                if math.isinf(bound):
                    return low
                return min(bound, low + (bound - low) * (wanted - below) / (counts[bound] - below))
            low, below = (low if math.isinf(bound) else bound), counts[bound]
        return low
