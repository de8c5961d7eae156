"""The application that Ray Serve runs: an ingress in front of replicas, and the ledger that all of them share."""

from __future__ import annotations

from typing import Any

import ray
from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, RequestRouterConfig

from .arguments import Arguments
from .ingress import Ingress
from .ledger import Ledger
from .replica import Replica

_SLACK_S = 5  # that a replica has beyond its limit for answers in progress
DELAYS = {"upscale_delay_s": 15.0, "downscale_delay_s": 600.0, "look_back_period_s": 15.0}
"""How long the load has to be another, in seconds: a model takes long to load, and is warm when it has answered a while."""
_SURGE_PERCENT = 25  # more replicas while an update runs


def application(arguments: Arguments) -> serve.Application:
    """The application of these arguments."""
    options, settings = arguments.engine_options(), arguments.served_settings()
    leave_s = settings.drain_s + _SLACK_S
    replica = serve.deployment(
        Replica,
        ray_actor_options={"num_cpus": arguments.replica_cpus},
        max_ongoing_requests=options.max_rows + options.max_waiting,
        graceful_shutdown_timeout_s=leave_s,
        graceful_shutdown_wait_loop_s=0.2,
        health_check_period_s=5,
        max_constructor_retry_count=3,
        max_surge_percent=_surge_percent(arguments.replica_cpus),
        request_router_config=RequestRouterConfig(
            request_router_class="ptune_serve.cluster.router.WarmRouter"
        ),
        **_scale(arguments),
    )
    ingress = serve.deployment(
        serve.ingress()(Ingress),
        name="Ingress",
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=10_000,
        graceful_shutdown_timeout_s=leave_s + _SLACK_S,
        graceful_shutdown_wait_loop_s=0.2,
        max_surge_percent=100,
    )
    ledger = serve.deployment(Ledger, ray_actor_options={"num_cpus": 0}, max_ongoing_requests=10_000).bind()
    max_body_bytes = max(settings.max_body_bytes, settings.max_images_bytes)
    return ingress.bind(replica.bind(arguments.model_dump(mode="json"), ledger), ledger, max_body_bytes)


def _surge_percent(replica_cpus: float) -> int:
    """How many replicas more an update may start, before it ends old ones.

    None where the cluster has no free cores: Ray would wait for some for ever, where it can as well end an old one first.
    """
    free = ray.available_resources().get("CPU", 0) if ray.is_initialized() else 0
    return _SURGE_PERCENT if free >= replica_cpus else 0


def _scale(arguments: Arguments) -> dict[str, Any]:
    """A fixed number of replicas, or bounds between which the load decides."""
    if arguments.max_replicas is None:
        return {"num_replicas": arguments.replicas}
    policy = AutoscalingPolicy(policy_function="ptune_serve.cluster.load:replicas_for_load")
    bounds = {"min_replicas": arguments.replicas, "max_replicas": arguments.max_replicas}
    return {"autoscaling_config": AutoscalingConfig(**bounds, **DELAYS, policy=policy)}
