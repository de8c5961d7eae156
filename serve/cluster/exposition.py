"""Adds up the metrics of replicas, in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

_GROWING = ("counter", "histogram", "summary")
_LARGEST = {"ptune_running_step_seconds"}
_REMEMBERED = 100  # replicas that do not answer
_MEAN = {"ptune_kv_cache_usage_perc"}
Labels = tuple[tuple[str, str], ...]


@dataclass
class _Family:
    """A metric: its samples, each a sum over replicas and the number of these."""

    kind: str
    help: str
    samples: dict[tuple[str, Labels], tuple[float, int]] = field(default_factory=dict)

    def add(self, name: str, labels: Labels, value: float) -> None:
        before, count = self.samples.get((name, labels), (0.0, 0))
        largest = name in _LARGEST or self.kind == "info" or name.endswith("_info")
        self.samples[name, labels] = (max(before, value) if largest else before + value, count + 1)

    def lines(self, name: str) -> Iterable[str]:
        exposed = f"{name}_total" if self.kind == "counter" else name
        yield f"# HELP {exposed} {_escaped(self.help)}"
        yield f"# TYPE {exposed} {self.kind}"
        for (sample, labels), (value, count) in self.samples.items():
            shown = ",".join(f'{key}="{_escaped(text, quote=True)}"' for key, text in labels)
            mean = value / count if sample in _MEAN else value
            yield f"{sample}{{{shown}}} {mean!r}" if shown else f"{sample} {mean!r}"


class Totals:
    """The sum over replicas. Counters never fall: what a replica has counted stays in the sum when it ends."""

    def __init__(self) -> None:
        self._ended: dict[str, _Family] = {}
        self._last: dict[
            str, bytes
        ] = {}  # of each replica; those that did not answer this time may do so again

    def of(self, expositions: Mapping[str, bytes]) -> bytes:
        """The sum of what replicas expose now, by their names, and of what the others have counted."""
        for replica, text in expositions.items():
            self._last.pop(replica, None)
            self._last[replica] = text
        silent = [replica for replica in self._last if replica not in expositions]
        for replica in silent[:-_REMEMBERED]:
            _add(self._ended, self._last.pop(replica), growing=True)
        families = {
            name: _Family(family.kind, family.help, dict(family.samples))
            for name, family in self._ended.items()
        }
        for replica, text in self._last.items():
            _add(families, text, growing=replica not in expositions)
        lines = [line for name, family in families.items() for line in family.lines(name)]
        return "".join(f"{line}\n" for line in lines).encode()


def _add(families: dict[str, _Family], text: bytes, *, growing: bool = False) -> None:
    """Adds the metrics of one replica. growing: only those that count from its start."""
    for metric in text_string_to_metric_families(text.decode()):
        if _is_time_of_creation(metric) or (growing and metric.type not in _GROWING):
            continue
        family = families.setdefault(metric.name, _Family(metric.type, metric.documentation))
        for sample in metric.samples:
            family.add(sample.name, tuple(sample.labels.items()), sample.value)


def _is_time_of_creation(metric: Metric) -> bool:
    return metric.type == "gauge" and metric.name.endswith("_created")


def _escaped(text: str, *, quote: bool = False) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quote else text
