"""Decides for each alias with a canary which of the two stays, as soon as their scores say so."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ptune.formats.bundle import Alias, Canary

from .confidence import MeanOfScores

Decision = Literal["promoted", "rolled back"]

_log = logging.getLogger("ptune.serve")


class Aliases(Protocol):
    """Where aliases are read and moved."""

    def aliases(self) -> Mapping[str, Alias]: ...
    def point(self, alias: str, name: str, canary: Canary | None) -> Alias: ...


@dataclass
class Trial:
    """What users say of an alias's adapter and of its canary."""

    name: str
    canary: Canary
    scores: dict[str, MeanOfScores] = field(init=False)

    def __post_init__(self) -> None:
        assert self.canary.decide is not None
        error = self.canary.decide.error / 2  # each of the two may be wrong
        self.scores = {adapter: MeanOfScores(error) for adapter in (self.name, self.canary.name)}

    def decision(self) -> Decision | None:
        """Rolled back: the canary is worse. Promoted: it is not worse by more than the margin. None: neither is certain."""
        assert self.canary.decide is not None
        now, new = self.scores[self.name], self.scores[self.canary.name]
        if new.lower > new.upper or now.lower > now.upper:
            return None
        if new.upper < now.lower:
            return "rolled back"
        return "promoted" if new.lower > now.upper - self.canary.decide.margin else None


class Trials(Collector):
    """The trials that run. They are forgotten at a restart, and begin again; so is one whose alias was moved by hand."""

    def __init__(self, store: Aliases) -> None:
        self._store = store
        self._running: dict[str, Trial] = {}
        self._decided = {"promoted": 0, "rolled back": 0}
        self._moving = asyncio.Lock()

    def of(self, alias: str) -> Trial | None:
        """The trial of an alias, begun at the first look; None where nobody is to decide."""
        target = self._store.aliases().get(alias)
        if target is None or target.canary is None or target.canary.decide is None:
            self._running.pop(alias, None)
            return None
        trial = self._running.get(alias)
        if trial is None or (trial.name, trial.canary) != (target.name, target.canary):
            trial = self._running[alias] = Trial(target.name, target.canary)
        return trial

    async def score(self, alias: str, adapter: str, score: float) -> bool:
        """Counts a score, and moves the alias if that decides it. False where it is no longer asked for."""
        async with self._moving:
            trial = self.of(alias)
            if trial is None or adapter not in trial.scores:
                return False
            trial.scores[adapter].add(score)
            decided = trial.decision()
            if decided is not None:
                stays = trial.canary.name if decided == "promoted" else trial.name
                await asyncio.to_thread(self._store.point, alias, stays, None)
                self._decided[decided] += 1
                _log.warning("alias %s: canary %s %s", alias, trial.canary.name, decided)
            return True

    def collect(self) -> Iterator[Metric]:
        """For Prometheus."""
        labels = ["alias", "adapter"]
        count = GaugeMetricFamily("ptune_rollout_scores", "Scores in the running trial", labels=labels)
        bounds = {
            side: GaugeMetricFamily(f"ptune_rollout_{side}", f"{side} bound of the mean score", labels=labels)
            for side in ("lower", "upper")
        }
        for alias, trial in list(self._running.items()):
            for adapter, scores in trial.scores.items():
                count.add_metric([alias, adapter], scores.count)
                bounds["lower"].add_metric([alias, adapter], scores.lower)
                bounds["upper"].add_metric([alias, adapter], scores.upper)
        decided = CounterMetricFamily("ptune_rollouts", "Canaries decided", labels=["decision"])
        for decision, times in self._decided.items():
            decided.add_metric([decision.replace(" ", "_")], times)
        yield from (count, *bounds.values(), decided)
