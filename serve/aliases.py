"""Names that stand for an adapter: one today, another tomorrow, and a share of the requests on trial."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from ptune.errors import RequestError
from ptune.formats.bundle import Alias, Canary

MAIN = ""
"""The key of whoever wants the adapter that an alias stands for, and no trial."""


def chosen(aliases: Mapping[str, Alias], model: str, key: str) -> str:
    """The adapter that answers to `model`, which is no alias in most cases.

    The same key gets the same adapter, and as an alias's share grows nobody goes back from the canary.
    """
    alias = aliases.get(model)
    if alias is None:
        return model
    if alias.canary is not None and key != MAIN and _point(f"{model}\n{key}") < alias.canary.share:
        return alias.canary.name
    return alias.name


def switched(old: Alias | None, name: str, canary: Canary | None) -> Alias:
    """An alias that stands for `name` from now on."""
    if old is None:
        return Alias(name=name, canary=canary)
    return Alias(name=name, canary=canary, previous=old.previous if old.name == name else old.name)


def rolled_back(alias: str, now: Alias) -> Alias:
    """The alias as it was before; a canary ends, and where nothing was before that is all.

    Raises: RequestError(409) where there is nothing to go back to.
    """
    if now.previous is not None:
        return Alias(name=now.previous, previous=now.name)
    if now.canary is None:
        raise RequestError(
            f"alias {alias!r} has stood for {now.name!r} only: there is nothing to go back to",
            param="alias",
            code="no_previous",
            status=409,
        )
    return Alias(name=now.name)


def without(aliases: Mapping[str, Alias], name: str) -> dict[str, Alias]:
    """The aliases once an adapter is gone that none of them stands for."""
    return {
        alias: said.model_copy(update={"previous": None}) if said.previous == name else said
        for alias, said in aliases.items()
    }


def users_of(aliases: Mapping[str, Alias], name: str) -> list[str]:
    """The aliases under which an adapter may answer."""
    return [
        alias
        for alias, said in aliases.items()
        if name == said.name or (said.canary is not None and name == said.canary.name)
    ]


def _point(key: str) -> float:
    """A number from 0 to 1, evenly spread over the keys."""
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:8]) / 2**64
