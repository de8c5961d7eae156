"""How HTTP requests ended: by route and status, so that refusals (401, 429, 503) show, too."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter

UNKNOWN = "unknown"


class Responses:
    """Counted by the server's own routes: what a client asked for that is none is `unknown`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._responses = Counter(
            "ptune_http_responses", "Responses, by route and status", ["route", "status"], registry=registry
        )

    def sent(self, route: str | None, status: int) -> None:
        """A response's head was sent."""
        self._responses.labels(route or UNKNOWN, str(status)).inc()
