"""Aliases: names that point at an adapter and can be moved to another, also for a share of the requests (a canary)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from ptune.errors import RequestError
from ptune.formats.bundle import Alias, Canary

NO_CALLER = ""
"""The caller that always gets the alias's adapter, never its canary."""


def resolve_alias(aliases: Mapping[str, Alias], model: str, caller: str = NO_CALLER) -> str:
    """The adapter that `model` points at; `model` itself if it is not an alias.

    A caller gets the same adapter each time, and never goes back from the canary while its share grows.
    """
    alias = aliases.get(model)
    if alias is None:
        return model
    if (
        alias.canary is not None
        and caller != NO_CALLER
        and _fraction(f"{model}\n{caller}") < alias.canary.share
    ):
        return alias.canary.name
    return alias.name


def switched(old: Alias | None, name: str, canary: Canary | None) -> Alias:
    """The alias, moved to `name`."""
    if old is None:
        return Alias(name=name, canary=canary)
    return Alias(name=name, canary=canary, previous=old.previous if old.name == name else old.name)


def rolled_back(alias: str, now: Alias) -> Alias:
    """The alias, moved back to its previous adapter, or without its canary if it has no previous adapter.

    Raises: RequestError(409) if it has neither.
    """
    if now.previous is not None:
        return Alias(name=now.previous, previous=now.name)
    if now.canary is None:
        raise RequestError(
            f"alias {alias!r} has only ever pointed at {now.name!r}: there is nothing to roll back to",
            param="alias",
            code="no_previous",
            status=409,
        )
    return Alias(name=now.name)


def without(aliases: Mapping[str, Alias], name: str) -> dict[str, Alias]:
    """The aliases, after the removal of an adapter that none of them points at."""
    return {
        alias: target.model_copy(update={"previous": None}) if target.previous == name else target
        for alias, target in aliases.items()
    }


def users_of(aliases: Mapping[str, Alias], name: str) -> list[str]:
    """The aliases that point at an adapter, or have it as their canary."""
    return [
        alias
        for alias, target in aliases.items()
        if name == target.name or (target.canary is not None and name == target.canary.name)
    ]


def _fraction(key: str) -> float:
    """A number from 0 to 1, evenly distributed over the keys."""
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:8]) / 2**64
