"""How loaded a replica is, and how many replicas a load needs: the autoscaling of `ptune serve --ray`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

    from ptune.engine.options import EngineOptions

LOAD = "load"
TARGET = 0.7
"""Desired load of a replica: the rest is for what comes while another one starts."""


def load_of(stats: Any, options: EngineOptions) -> float:
    """Sequences in the engine, running and waiting, as a share of a full batch; or tokens as a share of its cache.

    Whichever is larger; over 1 where there is more to do than fits. stats: an engine's `stats()`.
    """
    sequences = (stats.running + stats.waiting) / options.max_rows
    capacity = getattr(stats, "kv_capacity_tokens", 0)
    return max(sequences, stats.kv_used_tokens / capacity if capacity else 0.0)


def replicas_for_load(context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """The number of replicas at which each has the desired load. Ray calls it, and applies limits and delays."""
    loads = (context.aggregated_metrics or {}).get(LOAD, {})
    if not loads:
        return context.target_num_replicas, {}
    return math.ceil(sum(loads.values()) / TARGET), {}
