"""What is said at an endpoint of another kind of model: what this server serves, and where."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from fastapi import APIRouter
from fastapi.routing import APIRoute

from ptune.config.tasks import TASKS, endpoints_of, routers_of
from ptune.kinds import imported

from .service import Service


@cache
def paths_of_tasks() -> frozenset[str]:
    """The paths of all endpoints of all tasks."""
    return frozenset(path for place in routers_of(*TASKS) for path in paths_of(imported(place)))


def paths_of(router: APIRouter) -> tuple[str, ...]:
    """The paths of a router's endpoints."""
    return tuple(route.path for route in router.routes if isinstance(route, APIRoute))


def where_to_ask(service: Service, here: Iterable[str]) -> str:
    """What is served, and at which of the app's paths, `here`. Where keys are needed, adapters' tasks are not told."""
    if service.settings.api_keys:
        there = set(here)
        endpoints = dict.fromkeys(path for task in TASKS for path in task.endpoints if path in there)
        return f"this server answers at {_listed(endpoints)}"
    cards = [service.catalogue.card(name) for name in service.catalogue.names()]
    tasks = dict.fromkeys(card["task"] for card in cards)
    endpoints = dict.fromkeys(path for task in tasks for path in endpoints_of(task))
    if not tasks:
        return "this server serves no adapter yet"
    return f"this server serves {_listed(tasks)}: use {_listed(endpoints)}"


def _listed(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
