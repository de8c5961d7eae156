"""Counts HTTP responses by route and status, including refusals (401, 429, 503)."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter

UNKNOWN = "unknown"
NAME = "ptune_http_responses"


class Responses:
    """Counts responses by the server's routes; a path that is not a route counts as `unknown`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._responses = Counter(
            NAME, "Responses, by route and status", ["route", "status"], registry=registry
        )

    def sent(self, route: str | None, status: int) -> None:
        """Counts a response."""
        self._responses.labels(route or UNKNOWN, str(status)).inc()
