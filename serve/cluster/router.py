"""The request router of Ray Serve that prefers a warm replica: `affinity`, with the loads that Ray knows."""

from __future__ import annotations

from typing import Any

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from .affinity import Popularity, Route, not_too_busy, ranked, seed_of


class WarmRouter(RequestRouter):
    """Runs in every ingress. The first argument of a request may be its `Route`."""

    def initialize_state(self, **_: Any) -> None:
        self._popularity = Popularity()
        self._seeds: dict[str, int] = {}

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Ranks of one replica each; Ray takes the first that accepts the request."""
        route = _route_of(pending_request)
        if pending_request is not None:
            pending_request.routing_context.should_backoff = (
                True  # where all are full, before they are asked again
            )
        if not route.levels:
            return [candidate_replicas]  # the least busy
        if not route.pinned:
            self._popularity.add(route.levels)
        order = ranked(route.levels, candidate_replicas, self._seed, self._share(route))
        if not route.pinned:
            order = not_too_busy(order, self._running)
        return [[replica] for replica in order]

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        super().update_replicas(replicas)
        names = (replica.replica_id.unique_id for replica in replicas)
        self._seeds = {name: seed_of(name) for name in names}

    def _seed(self, replica: RunningReplica) -> int:
        name = replica.replica_id.unique_id
        return self._seeds.get(name) or seed_of(name)

    def _share(self, route: Route) -> Any:
        return (lambda _: 0.0) if route.pinned else self._popularity.share

    def _running(self, replica: RunningReplica) -> int:
        return self.replica_queue_len_cache.get(replica.replica_id) or 0


def _route_of(request: PendingRequest | None) -> Route:
    first = request.args[0] if request is not None and request.args else None
    return first if isinstance(first, Route) else Route()
