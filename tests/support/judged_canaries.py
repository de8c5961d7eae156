"""A canary that is judged by its loss, as a client of a server sees it."""

from __future__ import annotations

import time
from typing import Any


def begin(http: Any, name: str, canary: str, users: Any = None, query: str = "", **rule: Any) -> Any:
    decide = {"loss": {"texts": "heldout.jsonl", **rule}} | ({} if users is None else {"users": users})
    body = {"alias": "prod", "canary": {"name": canary, "share": 0.5, "decide": decide}}
    return http.post(f"/v1/adapters/{name}/alias{query}", json=body)


def state(http: Any, query: str = "") -> dict[str, Any]:
    [alias] = http.get(f"/v1/aliases{query}").json()["data"]
    return dict(alias)


def until(http: Any, done: Any, query: str = "") -> dict[str, Any]:
    """The alias's card, once `done` says so of it."""
    ends_s = time.monotonic() + 60
    while not done(card := state(http, query)):
        assert time.monotonic() < ends_s, card
        time.sleep(0.02)
    return card


def until_told(http: Any, sample: str) -> str:
    """The metrics, once they hold a sample."""
    ends_s = time.monotonic() + 60
    while sample not in (told := http.get("/metrics").text):
        assert time.monotonic() < ends_s, told
        time.sleep(0.02)
    return str(told)


def decided(card: dict[str, Any]) -> bool:
    return card["canary"] is None


def ended(card: dict[str, Any]) -> bool:
    return bool(card["trial"]["loss"]["state"] != "running")
